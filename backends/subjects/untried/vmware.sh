#!/bin/sh
# vmware.sh start FOLDER IMAGE CPUS RECORDS | stop FOLDER: a machine for the probe, and the end of it.
set -eu
machine=$2/x2apic-probe.vmx
if [ "$1" = stop ]; then
    exec vmrun -T ws stop "$machine" hard
fi
cat > "$machine" <<END
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "x2apic-probe"
guestOS = "other-64"
firmware = "bios"
memsize = "64"
numvcpus = "$4"
cpuid.coresPerSocket = "$4"
vhv.enable = "TRUE"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "$3"
serial0.present = "TRUE"
serial0.fileType = "file"
serial0.fileName = "$5"
serial0.yieldOnMsrRead = "TRUE"
END
vmrun -T ws start "$machine" nogui
while vmrun list | grep -q x2apic-probe; do sleep 1; done
