# hyper-v.ps1 IMAGE CPUS: called by hyper-v.sh.
param([string]$Image, [int]$Cpus)
$ErrorActionPreference = "Stop"
$name = "x2apic-probe"
New-VM -Name $name -Generation 1 -MemoryStartupBytes 64MB -NoVHD | Out-Null
Set-VMProcessor -VMName $name -Count $Cpus -ExposeVirtualizationExtensions $true
Set-VMDvdDrive -VMName $name -Path $Image
Set-VMComPort -VMName $name -Number 1 -Path "\\.\pipe\$name"
Start-VM -Name $name
$pipe = New-Object System.IO.Pipes.NamedPipeClientStream ".", $name, "In"
$pipe.Connect(30000)
$pipe.CopyTo([Console]::OpenStandardOutput())
