package profile

import (
	"math"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// configuration reads the settings that shape the agent.
func configuration(n *node) (policy.Settings, LogSettings) {
	var s policy.Settings
	o, ok := n.object("apsSettings", "flowHandler", "userModeLogs", "managementService", "edsSettings")
	if !ok {
		return s, LogSettings{}
	}
	if o, ok := o.optional("apsSettings").object("requestPollingIntervalInSeconds"); ok {
		s.PolicyPollInterval = o.optional("requestPollingIntervalInSeconds").duration(time.Second)
	}
	if o, ok := o.optional("flowHandler").object("graceTimeInMs"); ok {
		s.GraceTime = o.optional("graceTimeInMs").duration(time.Millisecond)
	}
	if o, ok := o.optional("edsSettings").object("pollingIntervalInSeconds"); ok {
		s.ProbeInterval = o.optional("pollingIntervalInSeconds").duration(time.Second)
	}
	if o, ok := o.optional("managementService").object("hostAcquisitionInternalSubNet", "policyUpdateFlushOsCache",
		"cacheAuthenticationToken", "authenticationCacheRefreshIntervalInSeconds"); ok {
		s.SyntheticPool = subnet(o.optional("hostAcquisitionInternalSubNet"))
		s.FlushCacheOnChange = o.optional("policyUpdateFlushOsCache").boolean(false)
		s.CacheTokens = o.optional("cacheAuthenticationToken").boolean(false)
		s.TokenRefreshInterval = o.optional("authenticationCacheRefreshIntervalInSeconds").duration(time.Second)
	}
	return s, logs(o.optional("userModeLogs"))
}

func logs(n *node) LogSettings {
	o, ok := n.object("logSizeInMB", "fileCount", "directoryPath")
	if !ok {
		return LogSettings{}
	}
	// The path is one of Windows, and the sample's even holds a line feed by
	// mistake ("c:\naaslogs"): it must be a string, and is never used.
	_, _ = o.optional("directoryPath").str()
	count, _ := o.optional("fileCount").whole(0, math.MaxInt32)
	return LogSettings{SizeMB: o.optional("logSizeInMB").number(0), Count: int(count)}
}
