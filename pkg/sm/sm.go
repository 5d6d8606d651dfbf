package sm

import (
	"context"
	"io"
)

// Driver is one kind of storage: it makes, opens and erases storage repositories (SRs). A driver is safe for
// concurrent use.
//
// Errors, here and in SR: a failure that has a number in XenServer's table is an *Error; what callers branch on
// is a sentinel of this package (ErrInUse, ErrMissing, …); a cancelled call returns ctx's error. All of them may
// be wrapped. No error leaves anything half made that the next Attach does not clear away.
type Driver interface {
	// Info tells what the driver is. It never changes and costs nothing.
	Info() Info
	// Model returns a value of the type that Attach returns, of which nothing but the method set may be used: it
	// is how optional capabilities are found before any SR is attached.
	Model() SR
	// Create lays out an empty SR of sizeBytes (ignored by what takes the medium as it is). A place that holds
	// something already is refused with code 42 and left alone. It does not attach.
	Create(ctx context.Context, spec Spec, sizeBytes int64) error
	// Attach opens an SR that exists, and clears away what a crash left. Attaching the same SR (by uuid) again
	// returns the same value; a medium that another SR or process holds is ErrSRInUse, one that is not there is
	// code 47.
	Attach(ctx context.Context, spec Spec) (SR, error)
	// Destroy erases an SR that is not attached (ErrSRInUse). One with volumes is refused with ErrNotEmpty;
	// foreign files stay. Destroying what is not there succeeds, and so does a library of files that the driver did
	// not make, which stays as it is.
	Destroy(ctx context.Context, spec Spec) error
}

// SR is an attached storage repository. It is safe for concurrent use; calls on different volumes do not wait for
// each other's data. After Detach every call fails with code 47.
type SR interface {
	// Stat tells sizes as the medium itself says them.
	Stat(ctx context.Context) (Stat, error)
	// Scan lists the volumes, ordered by ID. A volume that cannot be understood is listed with Err set and does
	// not spoil the others; names that are no volume's are left out and never touched.
	Scan(ctx context.Context) ([]Volume, error)
	// AttachVolume makes a volume usable by holder, an opaque name such as a domain's disk, and tells where it is.
	// The same holder attaching again in the same mode gets the same answer. Readers share; a writer
	// is alone (ErrInUse). A volume that is not there is ErrMissing, one that is damaged code 46.
	AttachVolume(ctx context.Context, id, holder string, mode Mode) (Attachment, error)
	// DetachVolume ends what AttachVolume gave. What is not attached, or not there, is no error.
	DetachVolume(ctx context.Context, id, holder string) error
	// OpenVolume opens a volume's bytes for this process. The open blob counts as a holder until it is closed.
	OpenVolume(ctx context.Context, id string, mode Mode) (Blob, error)
	// Detach closes the SR; it is refused with ErrSRInUse while a volume has a holder. Detaching twice is no error.
	Detach(ctx context.Context) error
}

// Allocator is an SR on which volumes can be made and removed (VDI_CREATE, VDI_DELETE).
type Allocator interface {
	// CreateVolume makes an empty volume: all zeros, the size rounded up to what the format has, and returns
	// it as Scan would. It is on stable storage when the call returns. An ID that is taken is code 43, a size out
	// of range 79, no room a *FullError, a format that the driver lacks 66.
	CreateVolume(ctx context.Context, spec VolumeSpec) (Volume, error)
	// DestroyVolume removes a volume; with a holder it is ErrInUse, a base copy code 80. One that is not there is no
	// error.
	DestroyVolume(ctx context.Context, id string) error
}

// Resizer is an SR whose volumes can grow (VDI_RESIZE).
type Resizer interface {
	// ResizeVolume grows a volume that nobody holds (ErrInUse) to sizeBytes, rounded up, and returns it. The new
	// part reads as zeros. Its present size is no error; shrinking is code 79. After a failure or crash the volume
	// has the old size or the new one.
	ResizeVolume(ctx context.Context, id string, sizeBytes int64) (Volume, error)
}

// Prober is a driver that can tell which SRs a medium holds (SR_PROBE).
type Prober interface {
	// Probe answers with the XML document that XenServer's driver of that name gives.
	Probe(ctx context.Context, spec Spec) (string, error)
}

// Spec names an SR and where it lives.
type Spec struct {
	UUID   string            // in canonical lower case
	Config map[string]string // device_config, as a stranger sent it; drivers check it with CheckConfig
}

// Info is the static description of a driver.
type Info struct {
	Type        string // the SR type, e.g. "file"
	Label       string
	Description string
	Vendor      string
	Copyright   string
	Version     string // of the driver
	// RequiredAPIVersion is what SM.required_api_version shows.
	RequiredAPIVersion string
	// Thin says that a volume takes room only where it was written (THIN_PROVISIONING).
	Thin   bool
	Config []ConfigKey
}

// ConfigKey documents one key of device_config.
type ConfigKey struct {
	Name        string
	Description string
}

// Stat holds the sizes of an SR in bytes.
type Stat struct {
	PhysicalBytes int64 // the medium's size
	UsedBytes     int64 // taken on it, by whomever
	VirtualBytes  int64 // sum of the volumes' virtual sizes
}

// Format is how a volume's bytes are laid out.
type Format string

// The formats. A volume that shows as FormatRaw is its own bytes, with no header.
const (
	FormatVHD Format = "vhd"
	FormatRaw Format = "raw"
)

// VolumeSpec describes a volume to make.
type VolumeSpec struct {
	UUID      string // in canonical lower case; becomes the volume's ID
	SizeBytes int64
	Format    Format // empty: the driver's own choice
}

// Volume is one volume of an SR.
type Volume struct {
	ID            string // what the calls of SR take; the API's "location"
	UUID          string // empty where the medium has none and the caller must keep one
	Format        Format
	VirtualBytes  int64 // what a guest sees
	PhysicalBytes int64 // what it takes on the medium
	ReadOnly      bool
	Hidden        bool              // a base copy, of no use by itself
	Parent        string            // ID of the volume that this one is a difference to, empty for none
	SMConfig      map[string]string // keys of sm_config that clients read
	Err           error             // why the volume cannot be used; nil for a good one
}

// Mode is what a holder may do with a volume.
type Mode int

// The modes. Shared is for writers that have agreed among themselves, on raw volumes alone.
const (
	ReadOnly Mode = iota
	ReadWrite
	Shared
)

// String names the mode for messages.
func (m Mode) String() string {
	switch m {
	case ReadOnly:
		return "ro"
	case ReadWrite:
		return "rw"
	case Shared:
		return "shared"
	}
	return "invalid"
}

// Attachment tells where an attached volume is.
type Attachment struct {
	Path   string // a file or block device
	Format Format // how to read what is at Path
}

// Blob is an open volume: its virtual bytes from 0 to Size. It is safe for concurrent use. A write is on stable
// storage when a later Sync or Close has returned without error. Reads and writes past Size fail.
type Blob interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Size() int64
}

// Sparse is a Blob that knows which of its bytes were ever written.
type Sparse interface {
	// NextData returns the first run [start, end) at or after off that may hold anything but zeros, or io.EOF.
	NextData(off int64) (start, end int64, err error)
}
