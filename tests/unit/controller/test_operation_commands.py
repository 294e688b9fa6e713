from controller.api.kinds import admit
from controller.api.operation import OperationPhase, OperationType
from controller.operations.commands import build_operation, outcome


def test_an_operation_is_valid_and_has_a_name_of_its_own() -> None:
    first = build_operation(OperationType.STOP, "web", "prod", force=True)
    second = build_operation(OperationType.STOP, "web", "prod", force=False)

    assert admit(first, None) == admit(second, None) == []
    assert first["spec"] == {"type": "Stop", "virtualMachineName": "web", "force": True}
    assert second["spec"] == {"type": "Stop", "virtualMachineName": "web"}
    assert first["metadata"]["name"].startswith("web-stop-")
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_the_name_of_an_operation_on_a_machine_with_a_long_name_is_not_too_long() -> None:
    assert len(build_operation(OperationType.RESTART, "m" * 63, "prod", force=False)["metadata"]["name"]) == 63


def test_how_far_an_operation_is() -> None:
    waits = {"phase": "InProgress", "conditions": [{"type": "Completed", "message": "waits for the machine to stop"}]}

    assert outcome({}) == (OperationPhase.PENDING, "")
    assert outcome({"status": waits}) == (OperationPhase.IN_PROGRESS, "waits for the machine to stop")
    assert outcome({"status": {"phase": "Failed", "failureMessage": "not now"}}) == (OperationPhase.FAILED, "not now")
