"""How a radiograph may have been taken."""

# Index 0 is "unknown". The rest are MIMIC-CXR's, the usual ones first.
VIEW_POSITIONS = (
    "",
    "PA",
    "AP",
    "LATERAL",
    "LL",
    "LAO",
    "RAO",
    "LPO",
    "AP AXIAL",
    "XTABLE LATERAL",
    "AP LLD",
    "AP RLD",
    "PA LLD",
    "PA RLD",
    "SWIMMERS",
)
