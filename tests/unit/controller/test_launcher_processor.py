from typing import Literal

import pytest

from controller.launcher.processor import HYPER_V, processor_argument
from controller.launcher.spec import Processor

HOST = Processor()
MODEL = Processor(type="Model", model="Nehalem")
FEATURES = Processor(type="Features", features=("aes", "ssse3"))


@pytest.mark.parametrize(
    ("processor", "accelerator", "argument"),
    [
        (HOST, "kvm", "host"),
        (HOST, "tcg", "max"),
        (MODEL, "kvm", "Nehalem,enforce"),
        (MODEL, "tcg", "Nehalem"),
        (FEATURES, "kvm", "kvm64,+aes,+ssse3,enforce"),
        (FEATURES, "tcg", "kvm64,+aes,+ssse3"),
    ],
)
def test_the_processor_is_what_the_model_says(
    processor: Processor, accelerator: Literal["kvm", "tcg"], argument: str
) -> None:
    assert processor_argument(processor, accelerator, "Generic") == argument


def test_windows_is_told_of_the_hypervisor_where_there_is_one() -> None:
    assert processor_argument(HOST, "kvm", "Windows") == ",".join(("host", *HYPER_V))
    assert processor_argument(HOST, "tcg", "Windows") == "max"
