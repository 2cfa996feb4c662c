#!/bin/sh
# virtualbox.sh start FOLDER IMAGE CPUS RECORDS | remove: a machine for the probe, and the end of it.
set -eu
name=x2apic-probe
if [ "$1" = remove ]; then
    VBoxManage controlvm $name poweroff || true
    exec VBoxManage unregistervm $name --delete
fi
VBoxManage createvm --name $name --ostype Other_64 --basefolder "$2" --register
VBoxManage modifyvm $name --memory 64 --cpus "$4" --ioapic on --apic on --x2apic on --firmware bios \
    --nested-hw-virt on --uart1 0x3F8 4 --uartmode1 file "$5" --audio none --usb off
VBoxManage storagectl $name --name ide --add ide
VBoxManage storageattach $name --storagectl ide --port 0 --device 0 --type dvddrive --medium "$3"
exec VBoxHeadless --startvm $name --vrde off
