package host

import (
	"context"
	"maps"
	"strings"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Options are what Hosts are made with; only Env is required.
type Options struct {
	Env *xapi.Env
	// PluginDir holds the executables that host.call_plugin may run.
	PluginDir string
	// PluginTimeout is how long a plugin may run; 0 is ten minutes.
	PluginTimeout time.Duration
	// Certificate is the PEM text of the certificate that clients see.
	Certificate func() string
	// SetHostname changes the machine's own name; nil where that is not ours.
	SetHostname func(ctx context.Context, name string) error
	// Restart has the daemon started anew; nil where nobody would.
	Restart func()
}

// Hosts serves class host.
type Hosts struct {
	service.UnimplementedHost
	Options
}

// New makes the service.
func New(o Options) *Hosts {
	if o.PluginTimeout == 0 {
		o.PluginTimeout = 10 * time.Minute
	}
	return &Hosts{Options: o}
}

// Register puts the messages where the server finds them.
func (s *Hosts) Register(_ xapi.Hooks, services *service.Services) { services.Host = s }

// here finds a host that this daemon can act on.
func (s *Hosts) here(ref xenapi.HostRef) (*xenapi.Host, error) {
	h, err := db.Get(s.Env.DB.View(), ref)
	if err != nil {
		return nil, err
	}
	if h.UUID != s.Env.HostUUID {
		return nil, xenapi.ErrHostOffline(string(ref))
	}
	return h, nil
}

// edit changes a host's record.
func (s *Hosts) edit(ctx context.Context, ref xenapi.HostRef, fn func(tx *db.Tx, h *xenapi.Host) error) error {
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		h, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		return fn(tx, h)
	})
}

// stayDisabled in a host's other_config keeps it disabled over its restart.
const stayDisabled = "xapid_stay_disabled"

// with and without return copies of a map with one key set, or gone.
func with(m map[string]string, key, value string) map[string]string {
	next := map[string]string{}
	maps.Copy(next, m)
	next[key] = value
	return next
}

func without(m map[string]string, key string) map[string]string {
	next := maps.Clone(m)
	delete(next, key)
	return next
}

// Disable implements service.Host.
func (s *Hosts) Disable(ctx context.Context, _ *service.Call, p service.HostDisableParams) error {
	return s.edit(ctx, p.Host, func(_ *db.Tx, h *xenapi.Host) error {
		h.Enabled = false
		h.OtherConfig = without(h.OtherConfig, stayDisabled)
		if !p.AutoEnable {
			h.OtherConfig = with(h.OtherConfig, stayDisabled, "true")
		}
		return nil
	})
}

// Enable implements service.Host.
func (s *Hosts) Enable(ctx context.Context, _ *service.Call, p service.HostEnableParams) error {
	return s.edit(ctx, p.Host, func(tx *db.Tx, h *xenapi.Host) error {
		if m := db.Find(tx, h.Metrics); m == nil || !m.Live {
			return xenapi.ErrHostNotLive()
		}
		h.Enabled = true
		h.OtherConfig = without(h.OtherConfig, stayDisabled)
		return nil
	})
}

// GetServertime implements service.Host.
func (s *Hosts) GetServertime(_ context.Context, _ *service.Call, p service.HostGetServertimeParams) (time.Time, error) {
	_, err := s.here(p.Host)
	return s.Env.Time(), err
}

// GetServerLocaltime implements service.Host: the reading of the host's wall
// clock, written as if it were UTC.
func (s *Hosts) GetServerLocaltime(_ context.Context, _ *service.Call, p service.HostGetServerLocaltimeParams) (time.Time, error) {
	h, err := s.here(p.Host)
	if err != nil {
		return time.Time{}, err
	}
	zone, err := time.LoadLocation(h.Timezone)
	if err != nil {
		zone = time.Local
	}
	t := s.Env.Time().In(zone)
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second), nil
}

// ComputeFreeMemory implements service.Host.
func (s *Hosts) ComputeFreeMemory(ctx context.Context, _ *service.Call, p service.HostComputeFreeMemoryParams) (int64, error) {
	if _, err := s.here(p.Host); err != nil {
		return 0, err
	}
	info, err := s.Env.Node.Hypervisor.Host(ctx)
	return info.MemoryFreeBytes, err
}

// ComputeMemoryOverhead implements service.Host.
func (s *Hosts) ComputeMemoryOverhead(_ context.Context, _ *service.Call, p service.HostComputeMemoryOverheadParams) (int64, error) {
	h, err := s.here(p.Host)
	if err != nil {
		return 0, err
	}
	return h.MemoryOverhead, nil
}

// ListMethods implements service.Host.
func (s *Hosts) ListMethods(context.Context, *service.Call) ([]string, error) {
	var names []string
	for _, class := range datamodel.Get().Classes {
		for _, m := range class.Messages {
			if !m.Hidden && m.Lifecycle != datamodel.Removed {
				names = append(names, m.WireName())
			}
		}
	}
	return names, nil
}

// GetManagementInterface implements service.Host.
func (s *Hosts) GetManagementInterface(_ context.Context, _ *service.Call, p service.HostGetManagementInterfaceParams) (xenapi.PIFRef, error) {
	rd := s.Env.DB.View()
	h, err := db.Get(rd, p.Host)
	if err != nil {
		return "", err
	}
	for _, ref := range h.PIFs {
		if pif := db.Find(rd, ref); pif != nil && pif.Management {
			return ref, nil
		}
	}
	return "", xenapi.ErrHostHasNoManagementIP()
}

// SetHostnameLive implements service.Host.
func (s *Hosts) SetHostnameLive(ctx context.Context, _ *service.Call, p service.HostSetHostnameLiveParams) error {
	if _, err := s.here(p.Host); err != nil {
		return err
	}
	if reason := badHostname(p.Hostname); reason != "" {
		return xenapi.ErrHostNameInvalid(reason)
	}
	if s.SetHostname != nil {
		if err := s.SetHostname(ctx, p.Hostname); err != nil {
			return err
		}
	}
	return s.edit(ctx, p.Host, func(_ *db.Tx, h *xenapi.Host) error {
		h.Hostname = p.Hostname
		return nil
	})
}

// badHostname says what is wrong with a host name; "" if nothing is.
func badHostname(name string) string {
	if name == "" {
		return "the name is empty"
	}
	if len(name) > 64 {
		return "the name is longer than 64 characters"
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return "a part of the name is empty, too long or begins or ends with a hyphen"
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
				return "the name has characters other than letters, digits and hyphens"
			}
		}
	}
	return ""
}

// GetServerCertificate implements service.Host.
func (s *Hosts) GetServerCertificate(_ context.Context, _ *service.Call, p service.HostGetServerCertificateParams) (string, error) {
	if _, err := s.here(p.Host); err != nil {
		return "", err
	}
	if s.Certificate == nil {
		return "", xenapi.ErrNotImplemented("host.get_server_certificate")
	}
	return s.Certificate(), nil
}

// CreateNewBlob implements service.Host.
func (s *Hosts) CreateNewBlob(ctx context.Context, _ *service.Call, p service.HostCreateNewBlobParams) (xenapi.BlobRef, error) {
	return blob.Attach(ctx, s.Env, p.Host, p.Name, p.MimeType, p.Public)
}

// RestartAgent implements service.Host: the call is answered first.
func (s *Hosts) RestartAgent(_ context.Context, _ *service.Call, p service.HostRestartAgentParams) error {
	if _, err := s.here(p.Host); err != nil {
		return err
	}
	if s.Restart == nil {
		return xenapi.ErrNotImplemented("host.restart_agent")
	}
	s.Restart()
	return nil
}

// SyncData implements service.Host: the database on disk holds all that was
// answered until now.
func (s *Hosts) SyncData(ctx context.Context, _ *service.Call, p service.HostSyncDataParams) error {
	if _, err := s.here(p.Host); err != nil {
		return err
	}
	return s.Env.DB.Flushed(ctx, s.Env.DB.View().Index())
}

// IsInEmergencyMode implements service.Host: a host that serves is not.
func (s *Hosts) IsInEmergencyMode(context.Context, *service.Call) (bool, error) { return false, nil }

// LocalAssertHealthy implements service.Host.
func (s *Hosts) LocalAssertHealthy(context.Context, *service.Call) error { return nil }

// HasExtension implements service.Host: there are no extension calls.
func (s *Hosts) HasExtension(_ context.Context, _ *service.Call, p service.HostHasExtensionParams) (bool, error) {
	_, err := s.here(p.Host)
	return false, err
}
