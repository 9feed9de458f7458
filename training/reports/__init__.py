"""Writing reports and learning to: encoded reports, similar cases, prompt hints."""
