"""The types of a machine's conditions, and how often to look at what nothing tells of."""

BLOCK_DEVICES_READY = "BlockDevicesReady"
PROVISIONING_READY = "ProvisioningReady"
RUNNING = "Running"
CONFIGURATION_APPLIED = "ConfigurationApplied"
MIGRATABLE = "Migratable"
MIGRATING = "Migrating"

POLL_S = 10.0
