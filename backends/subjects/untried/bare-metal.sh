#!/bin/sh
# bare-metal.sh IMAGE: gives the image to the machine under test, restarts it, and passes on what its COM1 says.
# Set before: PUBLISH, a command that makes its argument what the machine boots (copies it to a virtual CD drive
# of its management controller, or, with `image: kernel`, to the TFTP server's folder); POWER_CYCLE, a command
# that restarts the machine (ipmitool … power cycle); SERIAL, the serial device on this host (/dev/ttyUSB0).
# The machine must have at least as many processors as `most-cpus` of the subject file says; others are not used.
set -eu
: "${PUBLISH:?is not set}" "${POWER_CYCLE:?is not set}" "${SERIAL:?is not set}"
stty -F "$SERIAL" 115200 raw -echo
$PUBLISH "$1"
$POWER_CYCLE >&2
exec cat "$SERIAL"
