<#
.SYNOPSIS
Takes back what prepare-host.ps1 made and granted, by its lifeboat-live.json.

.DESCRIPTION
Not run here: there was no Windows to run it on. Read it before you do.

Removes the suite's machines in the folder ("lifeboat-live-...") with their
files, the switch, the account's rights, and closes the firewall's rules. The
Hyper-V role stays, and so does whatever prepare-host.ps1 found. -WhatIf shows
what it would do; it can be run again.

.PARAMETER Folder
The folder that prepare-host.ps1 was given.

.EXAMPLE
.\cleanup-host.ps1 -Folder D:\lifeboat-live -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'High')]
param(
    [Parameter(Mandatory)] [string] $Folder
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$record = Join-Path $Folder 'lifeboat-live.json'
if (-not (Test-Path -LiteralPath $record)) { throw "There is no $record, so nothing is known to be ours." }
$made = Get-Content -LiteralPath $record -Raw | ConvertFrom-Json
$namespace = 'root\virtualization\v2'
$root = [IO.Path]::GetFullPath($Folder).TrimEnd('\') + '\'

# Machines by name and place: one of that name elsewhere is somebody else's.
$ours = Get-VM | Where-Object {
    ($_.Name -eq $made.Machine -or $_.Name -like 'lifeboat-live-*') -and
    ($_.Path.TrimEnd('\') + '\').StartsWith($root, [StringComparison]::OrdinalIgnoreCase)
}
foreach ($vm in $ours) {
    if (-not $PSCmdlet.ShouldProcess($vm.Name, 'remove machine and its disks')) { continue }
    if ($vm.State -ne 'Off') { Stop-VM -VM $vm -TurnOff -Force }
    # Merging takes its time; the files can't be removed before.
    Get-VMSnapshot -VM $vm | Remove-VMSnapshot -IncludeAllChildSnapshots -Confirm:$false
    while ((Get-VM -Id $vm.Id).Status -match 'Merging') { Start-Sleep -Seconds 2 }
    $disks = @(Get-VMHardDiskDrive -VM $vm | Select-Object -ExpandProperty Path)
    Remove-VM -VM $vm -Force -Confirm:$false
    foreach ($disk in $disks) {
        if ($disk.StartsWith($root, [StringComparison]::OrdinalIgnoreCase)) { Remove-Item -LiteralPath $disk -Force -Confirm:$false }
    }
}
if ($made.Machine) {
    $rest = Join-Path $Folder $made.Machine
    if ((Test-Path -LiteralPath $rest) -and $PSCmdlet.ShouldProcess($rest, 'remove folder')) {
        Remove-Item -LiteralPath $rest -Recurse -Force -Confirm:$false
    }
}

if ($made.Switch -and (Get-VMSwitch -Name $made.Switch -ErrorAction SilentlyContinue) -and
    $PSCmdlet.ShouldProcess($made.Switch, 'remove switch')) {
    Remove-VMSwitch -Name $made.Switch -Force -Confirm:$false
}

if ($made.Account) {
    $sid = (New-Object Security.Principal.NTAccount $made.Account).Translate([Security.Principal.SecurityIdentifier])
    foreach ($group in $made.Groups) {
        if ($PSCmdlet.ShouldProcess($made.Account, "take out of group $group")) {
            Remove-LocalGroupMember -SID $group -Member $made.Account -Confirm:$false -ErrorAction SilentlyContinue
        }
    }
    if ($made.Namespace -and $PSCmdlet.ShouldProcess($made.Account, "revoke $namespace")) {
        $security = Get-WmiObject -Namespace $namespace -Class __SystemSecurity
        $descriptor = $security.GetSecurityDescriptor().Descriptor
        $descriptor.DACL = @($descriptor.DACL | Where-Object { $_.Trustee.SIDString -ne $sid.Value })
        $result = $security.SetSecurityDescriptor($descriptor)
        if ($result.ReturnValue -ne 0) { throw "The namespace's security can't be set: $($result.ReturnValue)." }
    }
}

foreach ($rule in $made.Rules) {
    if ($PSCmdlet.ShouldProcess($rule, 'disable rule of the firewall')) { Disable-NetFirewallRule -Name $rule -Confirm:$false }
}

# Last: until here it can be run again.
if ($PSCmdlet.ShouldProcess($record, 'remove record')) { Remove-Item -LiteralPath $record -Confirm:$false }
Write-Output "Done. The folder $Folder and the Hyper-V role stay."
