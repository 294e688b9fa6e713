#!/bin/busybox sh
# PID 1 of DVCR's small guest: what tests and the demo need of an operating system, and no more.
#
# Everything that a test may wait for is one line on the serial console that begins with "DVCR-GUEST ".
# Of cloud-init it understands, from a NoCloud drive: local-hostname of meta-data; user data that is a script (#!), or
# a #cloud-config with `hostname:` and a `runcmd:` list of one-line strings.

export PATH=/bin HOME=/root TERM=vt100
busybox mkdir -p /proc /sys /dev /run /root /data /seed /etc/acpi/PWRF
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox --install -s /bin
exec </dev/ttyS0 >/dev/ttyS0 2>&1

say() { echo "DVCR-GUEST $*"; }

# busybox's poweroff and reboot signal PID 1, and a trap only runs between commands or during `wait`: all that may take
# long runs in the background here.
end() {
    say "$1"
    umount /data 2>/dev/null || mount -o remount,ro /data
    sync
    "$1" -f
}
trap 'end poweroff' USR2
trap 'end reboot' TERM

# Devices appear a moment after their drivers do; one that is not there after half a second never comes.
eventually() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        "$@" && return
        usleep 50000
    done
    return 1
}

# The block device with that ISO 9660 volume id (32 bytes in the primary volume descriptor, padded with blanks).
find_iso() {
    for device in /sys/class/block/*; do
        label=$(dd if="/dev/${device##*/}" bs=1 skip=32808 count=32 2>/dev/null)
        [ "${label%% *}" = "$1" ] && echo "/dev/${device##*/}" && return
    done
    return 1
}

while read -r module; do insmod "/modules/$module" || say "no module $module"; done </modules/order

printf '#!/bin/sh\necho "DVCR-GUEST power button" >/dev/ttyS0\npoweroff\n' >/etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
eventually [ -e /dev/input/event0 ]
acpid -l /dev/null

if disk=$(eventually findfs LABEL=dvcr-data 2>/dev/null) && mount -t ext4 "$disk" /data; then
    boots=$(($(cat /data/boots 2>/dev/null || echo 0) + 1))
    echo $boots >/data/boots
    sync
    say "boot=$boots disk=$disk"
else
    say "boot=unknown: the disk has no data partition that can be written"
fi

firmware=bios
[ -d /sys/firmware/efi ] && firmware=efi
dmesg | grep -qi 'secure boot enabled' && firmware=efi-secure
say "firmware=$firmware"

hostname guest
if seed=$(eventually find_iso cidata) && mount -o ro "$seed" /seed; then
    name=$(sed -n 's/^local-hostname: *//p' /seed/meta-data | tr -d "\"'")
    if head -n 1 /seed/user-data | grep -q '^#cloud-config'; then
        asked=$(sed -n 's/^hostname: *//p' /seed/user-data | tr -d "\"'")
        name=${asked:-$name}
        # A quoted item loses its quotes and their escapes; anything else is taken as it stands.
        awk '/^runcmd:/ { on = 1; next } /^[^ #-]/ { on = 0 }
             on && sub(/^ *- +/, "") {
                 if ($0 ~ /^".*"$/) { $0 = substr($0, 2, length($0) - 2); gsub(/\\"/, "\""); gsub(/\\\\/, "\\") }
                 else if ($0 ~ /^\047.*\047$/) { $0 = substr($0, 2, length($0) - 2); gsub(/\047\047/, "\047") }
                 print
             }' /seed/user-data >/run/user-data
    else
        cp /seed/user-data /run/user-data
    fi
    hostname "${name:-guest}"
fi
say "hostname=$(hostname)"

cat >/run/dhcp <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip route add default via "${router%% *}"
for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
echo "DVCR-GUEST address=$ip" >/dev/ttyS0
END
chmod +x /run/dhcp
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -s /run/dhcp -n -q -t 5 -T 1 >/dev/null 2>&1 || say "address=none"
fi

if [ -s /run/user-data ]; then
    say "user-data: $(head -n 1 /seed/user-data)"
    chmod +x /run/user-data
    if head -n 1 /run/user-data | grep -q '^#!'; then /run/user-data & else sh /run/user-data & fi
    wait $!
    say "user-data exit=$?"
fi
say "ready uptime=$(cut -d ' ' -f 1 /proc/uptime)"

while true; do
    setsid cttyhack sh </dev/ttyS0 &
    wait $!
done
