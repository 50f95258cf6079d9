"""What Graft does on this machine's GPU, as a table: numbers against the CPU's, and speed.

    python tests/gpu/run.py
    python tests/gpu/run.py --rows bf16               # the rows that have this in their names
    python tests/gpu/run.py --device cpu --images 8   # the rows themselves, without a GPU

It takes at most eight minutes, no network, and no images but its own. Of Graft it needs what
imports without Ray, from this checkout: with torch, that is numpy, pillow, pyarrow, pydantic and
safetensors. It does without torchvision, and with torch from 2.11 on. Ends with 1 where a check
failed, and with 0 where there is no GPU.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path[:1] = [str(TESTS), str(TESTS.parent / "platform")]
    from gpu.script import main

    sys.exit(main())
