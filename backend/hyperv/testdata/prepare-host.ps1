<#
.SYNOPSIS
Prepares a Hyper-V host for the live suite of backend/hyperv.

.DESCRIPTION
Not run here: there was no Windows to run it on. Read it before you do.

Makes what is missing, and leaves alone what is there, so it can be run again.
What it makes or grants it writes to lifeboat-live.json in the folder, by which
cleanup-host.ps1 takes it back. -WhatIf shows what it would do.

  1. the Hyper-V role (ends there if that needs a restart: run it again after)
  2. a folder, and in it the suite's machines
  3. an internal switch, by which nothing reaches a real network
  4. a small machine of generation 2 from a Linux image, if one is given
  5. the account's rights: Hyper-V Administrators, Distributed COM Users, the
     namespace root\virtualization\v2
  6. the firewall's rules for WMI

The rights are for WMI. Reading and writing disks attaches them on the host
itself, which takes an administrator: run the agent, or the suite, as one.

.PARAMETER Folder
Where the suite's machines and disks lie.

.PARAMETER Switch
Name of the switch.

.PARAMETER Image
A VHDX of a Linux that boots by UEFI. It is copied. Without it no machine is made.

.PARAMETER Machine
Name of that machine.

.PARAMETER Account
Who connects by WMI: "name" or "DOMAIN\name". It must exist. Without it no rights
are granted: administrators have them.

.EXAMPLE
.\prepare-host.ps1 -Folder D:\lifeboat-live -Image D:\images\debian.vhdx -Account lifeboat -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess)]
param(
    [Parameter(Mandatory)] [string] $Folder,
    [string] $Switch = 'lifeboat-live',
    [string] $Image,
    [string] $Machine = 'lifeboat-live-linux',
    [string] $Account
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# Groups by SID: their names depend on the language of Windows.
$groups = @{ 'S-1-5-32-578' = 'Hyper-V Administrators'; 'S-1-5-32-562' = 'Distributed COM Users' }
# The firewall's rules for WMI, by the resource that names their group.
$wmiRules = '@FirewallAPI.dll,-34251'
$namespace = 'root\virtualization\v2'

if ($Image -and -not (Test-Path -LiteralPath $Image -PathType Leaf)) { throw "There is no image at $Image." }
if ($Image -and [IO.Path]::GetExtension($Image) -ne '.vhdx') { throw 'The image must be a VHDX.' }

# 1. The role.
if (Get-Command Get-WindowsFeature -ErrorAction SilentlyContinue) {
    if (-not (Get-WindowsFeature Hyper-V).Installed -and $PSCmdlet.ShouldProcess('this host', 'install the Hyper-V role')) {
        if ((Install-WindowsFeature Hyper-V -IncludeManagementTools).RestartNeeded -ne 'No') {
            Write-Warning 'Restart this host, then run this script again.'
            return
        }
    }
}
elseif ((Get-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V).State -ne 'Enabled' -and
    $PSCmdlet.ShouldProcess('this computer', 'enable Hyper-V')) {
    if ((Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All -NoRestart).RestartNeeded) {
        Write-Warning 'Restart this computer, then run this script again.'
        return
    }
}

if (-not (Get-Command Get-VMSwitch -ErrorAction SilentlyContinue)) {
    Write-Warning 'Without Hyper-V there is nothing more to prepare, or to show.'
    return
}

# 2. The folder, and what was made so far.
if (-not (Test-Path -LiteralPath $Folder) -and $PSCmdlet.ShouldProcess($Folder, 'make folder')) {
    New-Item -ItemType Directory -Path $Folder | Out-Null
}
$record = Join-Path $Folder 'lifeboat-live.json'
$made = @{ Switch = ''; Machine = ''; Account = ''; Groups = @(); Namespace = $false; Rules = @() }
if (Test-Path -LiteralPath $record) {
    (Get-Content -LiteralPath $record -Raw | ConvertFrom-Json).PSObject.Properties | ForEach-Object { $made[$_.Name] = $_.Value }
}
if ($Account -and $made.Account -and $made.Account -ne $Account) {
    throw "Rights were given to $($made.Account) before: run cleanup-host.ps1 first."
}
function Save {
    if (-not $WhatIfPreference) { $made | ConvertTo-Json | Set-Content -LiteralPath $record -Encoding UTF8 }
}

# 3. The switch.
if (-not (Get-VMSwitch -Name $Switch -ErrorAction SilentlyContinue) -and $PSCmdlet.ShouldProcess($Switch, 'make internal switch')) {
    New-VMSwitch -Name $Switch -SwitchType Internal | Out-Null
    $made.Switch = $Switch
    Save
}

# 4. The machine. Recorded before it is made: a half-made one is cleaned up, too.
if ($Image -and -not (Get-VM -Name $Machine -ErrorAction SilentlyContinue) -and $PSCmdlet.ShouldProcess($Machine, 'make machine')) {
    $made.Machine = $Machine
    Save
    $place = Join-Path $Folder $Machine
    New-Item -ItemType Directory -Path $place -Force | Out-Null
    $disk = Join-Path $place 'disk.vhdx'
    Copy-Item -LiteralPath $Image -Destination $disk -Force
    New-VM -Name $Machine -Generation 2 -Path $Folder -VHDPath $disk -MemoryStartupBytes 512MB -SwitchName $Switch | Out-Null
    Set-VM -Name $Machine -StaticMemory -ProcessorCount 1 -CheckpointType Production -AutomaticStartAction Nothing -AutomaticStopAction ShutDown
    # Linux is signed by the UEFI authority of Microsoft's, not by that of Windows.
    Set-VMFirmware -VMName $Machine -EnableSecureBoot On -SecureBootTemplate MicrosoftUEFICertificateAuthority
}

# 5. The rights.
if ($Account) {
    $sid = (New-Object Security.Principal.NTAccount $Account).Translate([Security.Principal.SecurityIdentifier])
    foreach ($group in $groups.Keys) {
        if (Get-LocalGroupMember -SID $group -ErrorAction SilentlyContinue | Where-Object { $_.SID -eq $sid }) { continue }
        if ($PSCmdlet.ShouldProcess($Account, "add to $($groups[$group])")) {
            $made.Account = $Account
            Add-LocalGroupMember -SID $group -Member $Account
            $made.Groups = @($made.Groups) + $group
            Save
        }
    }
    # Enable, execute methods, remote enable, read security (wbemcli.h), for the
    # namespace and those below it.
    $mask = 0x1 -bor 0x2 -bor 0x20 -bor 0x20000
    $security = Get-WmiObject -Namespace $namespace -Class __SystemSecurity
    $descriptor = $security.GetSecurityDescriptor().Descriptor
    if (-not ($descriptor.DACL | Where-Object { $_.Trustee.SIDString -eq $sid.Value -and ($_.AccessMask -band $mask) -eq $mask }) -and
        $PSCmdlet.ShouldProcess($Account, "grant $namespace")) {
        $trustee = ([WMIClass] 'Win32_Trustee').CreateInstance()
        $trustee.SIDString = $sid.Value
        $bytes = New-Object byte[] $sid.BinaryLength
        $sid.GetBinaryForm($bytes, 0)
        $trustee.SID = $bytes
        $trustee.SidLength = $sid.BinaryLength
        $ace = ([WMIClass] 'Win32_ACE').CreateInstance()
        $ace.AccessMask = $mask
        $ace.AceFlags = 0x2 # for namespaces below
        $ace.AceType = 0x0  # allow
        $ace.Trustee = $trustee
        $descriptor.DACL = @($descriptor.DACL) + $ace
        $result = $security.SetSecurityDescriptor($descriptor)
        if ($result.ReturnValue -ne 0) { throw "The namespace's security can't be set: $($result.ReturnValue)." }
        $made.Account = $Account
        $made.Namespace = $true
        Save
    }
}

# 6. The firewall.
$closed = @(Get-NetFirewallRule -Group $wmiRules | Where-Object { $_.Enabled -ne 'True' -and $_.Direction -eq 'Inbound' -and $_.Profile -notmatch 'Public' })
if ($closed -and $PSCmdlet.ShouldProcess(($closed.DisplayName -join ', '), 'enable rules of the firewall')) {
    $made.Rules = @($made.Rules) + $closed.Name
    Save
    $closed | Enable-NetFirewallRule
}

Write-Output "Ready. Folder $Folder, switch $Switch$(if ($Image) { ", machine $Machine" })."
