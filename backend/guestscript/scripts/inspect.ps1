# Tells in one line of JSON what keeps one from getting into this machine after
# a failover. It only reads. What it can't tell it leaves out, and says why.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$unknown = New-Object System.Collections.ArrayList
$facts = @{ lifeboat = 1; os = 'windows' }

function Clean($s) {
    $s = ("$s" -replace '[^ -~]', ' ') -replace '["\\]', '/'
    if ($s.Length -gt 90) { $s = $s.Substring(0, 90) }
    $s.Trim()
}
function Fact($answer, $detail) { @{ answer = $answer; detail = (Clean $detail) } }
function YesNo($is, $detail) { if ($is) { Fact 'yes' $detail } else { Fact 'no' $detail } }
function Ask($name, $work) {
    try {
        $got = & $work
        if ($null -ne $got) { $facts[$name] = $got }
    } catch { [void]$unknown.Add((Clean "${name}: $($_.Exception.Message)")) }
}
function Value($path, $name) {
    if (-not (Test-Path -LiteralPath $path)) { return $null }
    (Get-ItemProperty -LiteralPath $path).$name
}
$services = 'HKLM:\SYSTEM\CurrentControlSet\Services'
function Start($service) { Value "$services\$service" 'Start' }

try {
    $v = Get-ItemProperty -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
    $facts.release = Clean "$($v.ProductName) build $($v.CurrentBuild)"
} catch { [void]$unknown.Add('release: the registry does not tell') }

$ts = 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server'
$port = 3389
try { $p = Value "$ts\WinStations\RDP-Tcp" 'PortNumber'; if ($p) { $port = [int]$p } } catch { }

Ask 'remoteAccess' {
    $deny = Value 'HKLM:\SOFTWARE\Policies\Microsoft\Windows NT\Terminal Services' 'fDenyTSConnections'
    $by = 'policy'
    if ($null -eq $deny) { $deny = Value $ts 'fDenyTSConnections'; $by = 'setting' }
    if ($null -eq $deny) { throw 'fDenyTSConnections is not there' }
    $start = Start 'TermService'
    if ($start -eq 4) { return Fact 'no' 'service TermService is disabled' }
    YesNo ($deny -eq 0) "fDenyTSConnections is $deny by $by, TermService starts as $start, port $port"
}

Ask 'firewall' {
    # What applies is the union of local rules and those of policies.
    $profiles = @(Get-NetFirewallProfile -PolicyStore ActiveStore)
    $ports = @{}
    foreach ($f in Get-NetFirewallPortFilter -PolicyStore ActiveStore) {
        foreach ($l in @($f.LocalPort)) {
            $ends = "$l".Split('-')
            $in = $l -eq 'Any' -or ($ends[0] -match '^\d+$' -and [int]$ends[0] -le $port -and $port -le [int]$ends[-1])
            if ($in) { $ports[$f.InstanceID] = "$($f.Protocol)" }
        }
    }
    $from = @{}
    foreach ($f in Get-NetFirewallAddressFilter -PolicyStore ActiveStore) {
        if ($ports.ContainsKey($f.InstanceID)) { $from[$f.InstanceID] = (@($f.RemoteAddress) -join ',') }
    }
    # A rule for a program or a service counts if it is Remote Desktop's.
    $only = @{}
    foreach ($f in Get-NetFirewallApplicationFilter -PolicyStore ActiveStore) {
        $p = "$($f.Program)"
        if ($ports.ContainsKey($f.InstanceID) -and $p -and $p -ne 'Any' -and $p -ne 'System' -and $p -notmatch '\\svchost\.exe$') { $only[$f.InstanceID] = $true }
    }
    foreach ($f in Get-NetFirewallServiceFilter -PolicyStore ActiveStore) {
        if ($ports.ContainsKey($f.InstanceID) -and $f.Service -and $f.Service -notin 'Any', '*', 'TermService') { $only[$f.InstanceID] = $true }
    }
    $rules = @(Get-NetFirewallRule -PolicyStore ActiveStore -Direction Inbound -Enabled True |
            Where-Object { $ports.ContainsKey($_.InstanceID) -and -not $only.ContainsKey($_.InstanceID) })
    $found = @{}
    foreach ($pr in $profiles) {
        foreach ($proto in 'TCP', 'UDP') {
            $key = $pr.Name.ToLower()
            if ($proto -eq 'UDP') { $key += '-udp' }
            if ("$($pr.Enabled)" -eq 'False') { $found[$key] = Fact 'yes' 'the firewall is off'; continue }
            if ("$($pr.AllowInboundRules)" -eq 'False') { $found[$key] = Fact 'no' 'the profile blocks everything'; continue }
            $mine = @($rules | Where-Object { $ports[$_.InstanceID] -in $proto, 'Any' -and ("$($_.Profile)" -eq 'Any' -or "$($_.Profile)" -match $pr.Name) })
            $block = @($mine | Where-Object { "$($_.Action)" -eq 'Block' })
            $allow = @($mine | Where-Object { "$($_.Action)" -eq 'Allow' })
            $wide = @($allow | Where-Object { $from[$_.InstanceID] -eq 'Any' })
            $wideBlock = @($block | Where-Object { $from[$_.InstanceID] -eq 'Any' })
            if ($wideBlock.Count) { $found[$key] = Fact 'no' "blocked by $($wideBlock[0].Name)" }
            elseif ($block.Count) { [void]$unknown.Add((Clean "firewall ${key}: $($block[0].Name) blocks some addresses")) }
            elseif ($wide.Count) { $found[$key] = Fact 'yes' "$($wide[0].Name)" }
            elseif ("$($pr.DefaultInboundAction)" -eq 'Allow') { $found[$key] = Fact 'yes' 'the profile allows what no rule forbids' }
            elseif ($allow.Count) { [void]$unknown.Add((Clean "firewall ${key}: $($allow[0].Name) allows only $($from[$allow[0].InstanceID])")) }
            else { $found[$key] = Fact 'no' "no rule allows port $port" }
        }
    }
    $found
}

Ask 'sanPolicy' {
    # A registry without the value means the edition's default, which is not told.
    $is = Value "$services\partmgr\Parameters" 'SanPolicy'
    if ($null -eq $is) { $name = "$((Get-StorageSetting).NewDiskPolicy)" }
    else { $name = @{ 1 = 'OnlineAll'; 2 = 'OfflineShared'; 3 = 'OfflineAll'; 4 = 'OfflineInternal' }[[int]$is] }
    if (-not $name -or $name -eq 'Unknown') { throw 'no policy is set' }
    YesNo ($name -eq 'OnlineAll') $name
}

Ask 'updatesPending' {
    if (Test-Path 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired') { return Fact 'yes' 'Windows Update asks for a restart' }
    if (Test-Path 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending') { return Fact 'yes' 'component servicing asks for a restart' }
    # From what was found last time: nothing is searched for on the network.
    $searcher = (New-Object -ComObject Microsoft.Update.Session).CreateUpdateSearcher()
    $searcher.Online = $false
    $n = $searcher.Search('IsInstalled=0 and IsHidden=0').Updates.Count
    if ($n -gt 0) { Fact 'yes' "$n updates are not installed" } else { Fact 'no' 'none known, no restart due' }
}

Ask 'bootDrivers' {
    $found = @{}
    foreach ($d in 'storvsc', 'vmbus', 'storflt', 'intelide', 'atapi') {
        $s = Start $d
        if ($null -eq $s) { $found[$d] = Fact 'no' 'there is no such driver' }
        elseif (-not (Test-Path "$env:SystemRoot\System32\drivers\$d.sys")) { $found[$d] = Fact 'no' 'its file is missing' }
        else { $found[$d] = YesNo ($s -eq 0) "Start is $s" }
    }
    $found
}

Ask 'dhcp' {
    $card = Get-WmiObject Win32_NetworkAdapterConfiguration -Filter 'IPEnabled=TRUE' |
        Sort-Object @{ Expression = { -not $_.DefaultIPGateway } }, InterfaceIndex | Select-Object -First 1
    if (-not $card) { throw 'no card has an address' }
    YesNo $card.DHCPEnabled "$($card.Description)"
}
Ask 'dhcpService' {
    $s = Start 'Dhcp'
    if ($null -eq $s) { throw 'there is no service Dhcp' }
    YesNo ($s -ne 4) "service Dhcp starts as $s"
}

Ask 'agents' {
    $found = @{}
    $installed = @(Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\*', 'HKLM:\SOFTWARE\WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall\*' -ErrorAction SilentlyContinue)
    foreach ($a in @(
            @('mobility', '*Azure Site Recovery Mobility*', 'svagents'),
            @('vmware-tools', 'VMware Tools', 'VMTools'),
            @('azure-guest-agent', 'Windows Azure VM Agent*', 'WindowsAzureGuestAgent'),
            @('hyper-v-integration', '', 'vmicheartbeat'))) {
        $i = $null
        if ($a[1]) { $i = $installed | Where-Object { $_.DisplayName -like $a[1] } | Select-Object -First 1 }
        $there = $i -or $null -ne (Start $a[2])
        $version = ''
        if ($i) { $version = $i.DisplayVersion }
        $found[$a[0]] = YesNo $there $version
    }
    $found
}

$facts.unknown = @($unknown | Select-Object -First 12)
ConvertTo-Json -InputObject $facts -Compress -Depth 4
