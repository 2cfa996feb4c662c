#!/bin/sh
# hyper-v.sh IMAGE CPUS: makes and starts a machine for the probe; what COM1 says comes on standard output.
set -eu
folder=$(dirname "$0")
exec powershell.exe -ExecutionPolicy Bypass -File "$(wslpath -w "$folder/hyper-v.ps1")" "$(wslpath -w "$1")" "$2"
