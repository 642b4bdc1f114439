"""Networks that are looked at before anything is trained."""

import subprocess
import sys

LOOK = """
import sys
from dualprune.stages.networks.build import check_pictures
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model

check_pictures(Model(name="digits_cnn"), (1, 8, 8), 10)
try:
    check_pictures(Model(name="digits_cnn"), (3, 8, 8), 10)
except SpecError as error:
    print(error)
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""


def test_a_network_is_given_a_picture_without_torchs_slow_imports() -> None:
    """They take longer than the rest of a plan."""
    ended = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    refused, imported = ended.stdout.splitlines()
    assert "digits_cnn can't take pictures of 3 x 8 x 8" in refused
    assert imported == "[]"
