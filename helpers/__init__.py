"""Tested helpers of the six tutorials; each module is shown by hand in a notebook first."""
