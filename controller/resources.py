"""The resource verbs: `dvcr apply|get|describe|delete|wait|logs`, and `dvcr crds`, what resources there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.printing import Output
from dvcr.errors import DvcrError, ResourceError

if TYPE_CHECKING:
    from controller.api.resource import Resource
    from controller.cli.kinds import Kinds
    from controller.runtime.cluster import Cluster

Object = dict[str, Any]

MACHINE_LABEL = "vm.virtualization.deckhouse.io/name"
_PANEL = "Resources"

Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig of the cluster; else the settings, then KUBECONFIG.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the resources.")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look in all namespaces.")]
Kind = Annotated[str, typer.Argument(help="Kind or short name (vm, vmd, cvmi, ...), or KIND/NAME.")]
Name = Annotated[str | None, typer.Argument(help="Name of the resource.")]
FileOption = Annotated[str, typer.Option("--filename", "-f", help="YAML file with one or more resources; - for stdin.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to `dvcr`."""
    for verb in (apply, get, describe, delete, wait, logs, crds):
        app.command(rich_help_panel=_PANEL)(verb)


def apply(
    context: typer.Context, filename: FileOption, namespace: Namespace = "default", kubeconfig: Kubeconfig = None
) -> None:
    """Create or change resources from a file.

    Example: `dvcr apply -f examples/quickstart.yaml`
    """
    from controller.cli.apply import apply as apply_object

    cluster, kinds = _connect(context, kubeconfig)
    failed = 0
    for manifest in _manifests(filename):
        what = _what(manifest)
        try:
            resource = _placed(kinds, manifest, namespace)
            typer.echo(f"{what} {apply_object(cluster, resource, manifest)}")
        except DvcrError as exc:
            # The others are still applied: most of them do not depend on this one.
            typer.echo(f"error: {what}: {exc.message}", err=True)
            failed += 1
    if failed:
        raise typer.Exit(1)


def get(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="Kinds or short names, comma-separated; `all`; or KIND/NAME.")],
    name: Name = None,
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on printing changes.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show resources.

    Example: `dvcr get cvmi,vmd,vm`, or `dvcr get vm linux -o yaml`
    """
    from controller.cli.kinds import split_target
    from controller.cli.printing import print_objects, watch_objects

    cluster, kinds = _connect(context, kubeconfig)
    kind, name = split_target(kind, name)
    if all_namespaces and name:
        raise ResourceError("a resource cannot be named across all namespaces; use -n or leave out the name")
    place = None if all_namespaces else namespace
    if watch:
        watch_objects(cluster, kinds.one(kind), name, place, output)
    else:
        print_objects(cluster, kinds.named(kind), name, place, output)


def describe(
    context: typer.Context, kind: Kind, name: Name = None, namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:  # fmt: skip
    """Show one resource in full, with its events.

    Example: `dvcr describe vm linux`
    """
    from controller.api.resource import EVENT
    from controller.cli.describe import describe as describe_object

    cluster, resource, name = _target(context, kubeconfig, kind, name)
    obj = _existing(cluster, resource, name, namespace)
    # Events about a resource without a namespace are kept in `default`.
    space = obj["metadata"].get("namespace", "default")
    events = cluster.list(EVENT, space, field_selector=f"involvedObject.uid={obj['metadata']['uid']}")
    typer.echo(describe_object(obj, events))


def delete(
    context: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="Kind or short name, or KIND/NAME.")] = None,
    name: Name = None,
    filename: Annotated[
        str | None, typer.Option("--filename", "-f", help="Delete what this YAML file names; - for stdin.")
    ] = None,
    namespace: Namespace = "default",
    wait: Annotated[bool, typer.Option(help="Return when the resources are gone.")] = True,
    grace_period: Annotated[int | None, typer.Option(help="Seconds that a pod has to stop; 0 kills it.")] = None,
    timeout: Annotated[str, typer.Option(help="Longest wait for each resource: 90s, 5m, 1h.")] = "10m",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete resources, in the reverse order of the file.

    Example: `dvcr delete -f examples/quickstart.yaml`, or `dvcr delete vm linux`
    """
    from controller.cli.waiting import Wish, parse_duration_s, wait_for

    if (filename is None) == (kind is None):
        raise ResourceError("name what to delete: either -f FILE, or a kind and a name")
    timeout_s = parse_duration_s(timeout)
    targets: list[tuple[Resource, str, str]] = []
    if filename is not None:
        cluster, kinds = _connect(context, kubeconfig)
        for manifest in reversed(_manifests(filename)):
            resource = _placed(kinds, manifest, namespace)
            targets.append((resource, manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")))
    else:
        cluster, resource, wanted = _target(context, kubeconfig, str(kind), name)
        _existing(cluster, resource, wanted, namespace)
        targets.append((resource, wanted, namespace))
    for resource, target, space in targets:
        cluster.delete(resource, target, space or None, grace_period_s=grace_period)
        typer.echo(f"{resource.kind.lower()}/{target} deleted")
    if wait:
        for resource, target, space in targets:
            wait_for(cluster, resource, target, space if resource.namespaced else None, Wish("delete"), timeout_s)


def wait(
    context: typer.Context,
    kind: Kind,
    name: Name = None,
    wish: Annotated[
        str, typer.Option("--for", help="What to wait for: condition=NAME[=VALUE], phase=NAME or delete.")
    ] = "condition=Ready",
    timeout: Annotated[str, typer.Option(help="Longest wait: 90s, 5m, 1h.")] = "5m",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait until a resource is as wished; shows its progress on a terminal.

    Example: `dvcr wait cvmi debian --for phase=Ready --timeout 10m`
    """
    from controller.cli.waiting import Wish, parse_duration_s, wait_for

    parsed, timeout_s = Wish.parse(wish), parse_duration_s(timeout)
    cluster, resource, name = _target(context, kubeconfig, kind, name)
    wait_for(cluster, resource, name, namespace if resource.namespaced else None, parsed, timeout_s)
    typer.echo(f"{resource.kind.lower()}/{name} {'deleted' if wish == 'delete' else 'condition met'}")


def logs(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A pod's name, or vm/NAME for the console output of a machine.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the container ends.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="The run before the last restart.")] = False,
    container: Annotated[str, typer.Option("--container", "-c", help="Container, if the pod has several.")] = "",
    tail: Annotated[int | None, typer.Option(help="Show only this many of the last lines.")] = None,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the output of a pod or of a machine's serial console.

    Example: `dvcr logs vm/linux -f`
    """
    cluster, kinds = _connect(context, kubeconfig)
    pod = _pod_of(cluster, kinds, target, namespace)
    out = typer.get_binary_stream("stdout")
    for piece in cluster.logs(pod, namespace, container=container, follow=follow, previous=previous, tail_lines=tail):
        out.write(piece)
        out.flush()


def crds() -> None:
    """Print the CustomResourceDefinitions of this version, for clusters that are not installed by the chart.

    Example: `dvcr crds | kubectl apply --server-side -f -`
    """
    import yaml

    from controller.api import kinds

    typer.echo(yaml.safe_dump_all(kinds.crds(), sort_keys=False, width=120), nl=False)


def _connect(context: typer.Context, kubeconfig: Path | None) -> tuple[Cluster, Kinds]:
    from controller.cli.kinds import Kinds
    from controller.runtime.cluster import Cluster

    cluster = Cluster.connect(kubeconfig or context.obj.controller.kubeconfig)
    return cluster, Kinds(cluster.resources())


def _target(
    context: typer.Context, kubeconfig: Path | None, kind: str, name: str | None
) -> tuple[Cluster, Resource, str]:
    from controller.cli.kinds import split_target

    kind, name = split_target(kind, name)
    if not name:
        raise ResourceError(f"name the {kind}; `dvcr get {kind}` shows what there is")
    cluster, kinds = _connect(context, kubeconfig)
    return cluster, kinds.one(kind), name


def _existing(cluster: Cluster, resource: Resource, name: str, namespace: str) -> Object:
    obj = cluster.get(resource, name, namespace)
    if obj is None:
        where = f" in the namespace {namespace!r}" if resource.namespaced else ""
        raise ResourceError(f"{resource.kind.lower()} {name!r} not found{where}", reason="NotFound")
    return obj


def _manifests(filename: str) -> list[Object]:
    from controller.cli.manifests import read_manifests

    return read_manifests(filename)


def _placed(kinds: Kinds, manifest: Object, namespace: str) -> Resource:
    """The manifest's kind; puts a namespaced object without a namespace into `namespace`."""
    resource = kinds.of(manifest)
    if resource.namespaced:
        manifest["metadata"].setdefault("namespace", namespace)
    return resource


def _what(manifest: Object) -> str:
    return f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"


def _pod_of(cluster: Cluster, kinds: Kinds, target: str, namespace: str) -> str:
    from controller.api.resource import MACHINE, POD

    if "/" not in target:
        return target
    kind, _, name = target.partition("/")
    resource = kinds.one(kind)
    if resource == POD:
        return name
    if resource != MACHINE:
        raise ResourceError(f"{target}: only pods and virtual machines have logs")
    pods = cluster.list(POD, namespace, label_selector=f"{MACHINE_LABEL}={name}")
    if not pods:
        _existing(cluster, resource, name, namespace)
        raise ResourceError(f"virtualmachine {name!r} has no pod: it is not running", reason="NotRunning")
    newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(newest["metadata"]["name"])
