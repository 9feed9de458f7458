"""Learning from rewards: what written reports are rewarded for, GRPO on any report generator, preferences."""
