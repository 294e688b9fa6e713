"""The processor that the guest sees: QEMU's `-cpu`. Pure."""

from typing import Literal

from controller.launcher.spec import Processor

FEATURES_BASE = "kvm64"
"""What `Features` are added to: a 64-bit processor that has nothing that is not everywhere."""
HYPER_V = (
    "hv-relaxed", "hv-vapic", "hv-spinlocks=0x1fff", "hv-vpindex", "hv-runtime", "hv-synic", "hv-stimer",
    "hv-frequencies", "hv-time", "hv-tlbflush", "hv-ipi", "hv-reset",
)  # fmt: skip
"""What Windows knows to use of a hypervisor; only KVM has it."""


def processor_argument(
    processor: Processor, accelerator: Literal["kvm", "tcg"], os_type: Literal["Generic", "Windows"]
) -> str:
    """The value of `-cpu`.

    KVM gives exactly what is asked or QEMU does not start (`enforce`): a guest must not find another processor after a
    migration. Emulation gives what it can, and QEMU says on its standard error what it leaves out.
    """
    kvm = accelerator == "kvm"
    match processor.type:
        case "Host":
            parts = ["host" if kvm else "max"]
        case "Model":
            parts = [processor.model]
        case "Features":
            parts = [FEATURES_BASE, *(f"+{feature}" for feature in processor.features)]
    if kvm and processor.type != "Host":
        parts.append("enforce")
    if kvm and os_type == "Windows":
        parts += HYPER_V
    return ",".join(parts)
