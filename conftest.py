"""What pytest sets before torch is imported, for the tests and for the kernels that they start."""

import os

os.environ.setdefault("TUTORIAL_FINDINGS", "strict")  # a finding that differs from the record fails
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models; a thread for each core would wait
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
