from controller.launcher.capability import Capability
from controller.local.node.heartbeat import Fact
from controller.local.node.processor import kvm_fact


def test_the_node_says_whether_guests_are_emulated_and_why() -> None:
    assert kvm_fact(Capability.of("kvm", ["aes"], {})) == Fact(True, "ProbeRan", "guests run on KVM")
    emulated = Capability.of("tcg", ["aes"], {}, "no access to /dev/kvm")
    assert kvm_fact(emulated) == Fact(False, "Emulated", "guests are emulated: no access to /dev/kvm")
