"""How a kind is addressed on the Kubernetes API, and the addresses of the kinds that DVCR works with."""

from dataclasses import dataclass, field

GROUP = "virtualization.deckhouse.io"
VERSION = "v1alpha2"
ADDRESS_ANNOTATION = f"{GROUP}/ip-address"
"""Of a pod: the address that the embedded cluster's node agent is to give it."""


@dataclass(frozen=True)
class Resource:
    """A kind and where its objects live. Equality ignores what discovery adds for people (short names, categories)."""

    group: str
    """Empty for the core group."""
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = field(default=(), compare=False)
    categories: tuple[str, ...] = field(default=(), compare=False)

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of one object, or of a subresource of it.

        Without a namespace the collection spans all of them.
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


POD = Resource("", "v1", "Pod", "pods")
PVC = Resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PV = Resource("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False)
NODE = Resource("", "v1", "Node", "nodes", namespaced=False)
SECRET = Resource("", "v1", "Secret", "secrets")
CONFIG_MAP = Resource("", "v1", "ConfigMap", "configmaps")
EVENT = Resource("", "v1", "Event", "events")
NAMESPACE = Resource("", "v1", "Namespace", "namespaces", namespaced=False)
SERVICE = Resource("", "v1", "Service", "services")
API_SERVICE = Resource("apiregistration.k8s.io", "v1", "APIService", "apiservices", namespaced=False)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
DISRUPTION_BUDGET = Resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
LEASE = Resource("coordination.k8s.io", "v1", "Lease", "leases")
SUBJECT_ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)
STORAGE_CLASS = Resource("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False)
CRD = Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)

CLUSTER_IMAGE = Resource(
    GROUP,
    VERSION,
    "ClusterVirtualMachineImage",
    "clustervirtualmachineimages",
    namespaced=False,
    short_names=("cvmi", "cvmis"),
    categories=("virtualization",),
)
IMAGE = Resource(
    GROUP,
    VERSION,
    "VirtualMachineImage",
    "virtualmachineimages",
    short_names=("vmi", "vmis"),
    categories=("virtualization", "all"),
)
DISK = Resource(
    GROUP,
    VERSION,
    "VirtualMachineDisk",
    "virtualmachinedisks",
    short_names=("vmd", "vmds"),
    categories=("virtualization", "all"),
)
MACHINE = Resource(
    GROUP,
    VERSION,
    "VirtualMachine",
    "virtualmachines",
    short_names=("vm", "vms"),
    categories=("virtualization", "all"),
)
CPU_MODEL = Resource(
    GROUP,
    VERSION,
    "VirtualMachineCPUModel",
    "virtualmachinecpumodels",
    namespaced=False,
    short_names=("vmcpu", "vmcpus"),
    categories=("virtualization",),
)
OPERATION = Resource(
    GROUP,
    VERSION,
    "VirtualMachineOperation",
    "virtualmachineoperations",
    short_names=("vmop", "vmops"),
    categories=("virtualization", "all"),
)
ATTACHMENT = Resource(
    GROUP,
    VERSION,
    "VirtualMachineBlockDeviceAttachment",
    "virtualmachineblockdeviceattachments",
    short_names=("vmbda", "vmbdas"),
    categories=("virtualization", "all"),
)
ADDRESS_CLAIM = Resource(
    GROUP,
    VERSION,
    "VirtualMachineIPAddressClaim",
    "virtualmachineipaddressclaims",
    short_names=("vmip", "vmips"),
    categories=("virtualization", "all"),
)
ADDRESS_LEASE = Resource(
    GROUP,
    VERSION,
    "VirtualMachineIPAddressLease",
    "virtualmachineipaddressleases",
    namespaced=False,
    short_names=("vmipl", "vmipls"),
    categories=("virtualization",),
)
