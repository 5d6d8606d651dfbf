package host

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// What a plugin may say, in bytes.
const (
	maxPluginOut = 4 << 20
	maxPluginErr = 64 << 10
	// pluginGrace is how long a killed plugin's pipes may stay open.
	pluginGrace = 5 * time.Second
)

// CallPlugin implements service.Host. A plugin is an executable that is given
// the call as an XML-RPC document (its only argument: the caller's session and
// the arguments) and prints an XML-RPC answer.
func (s *Hosts) CallPlugin(ctx context.Context, c *service.Call, p service.HostCallPluginParams) (string, error) {
	if _, err := s.here(p.Host); err != nil {
		return "", err
	}
	path, err := s.plugin(p.Plugin)
	if err != nil {
		return "", err
	}
	doc, err := pluginCall(p.Fn, string(c.Session.Ref), p.Args)
	if err != nil {
		return "", xenapi.ErrInvalidValue("args", err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, s.PluginTimeout)
	defer cancel()
	stdout, stderr := &bounded{limit: maxPluginOut}, &bounded{limit: maxPluginErr}
	cmd := exec.CommandContext(ctx, path, doc)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pluginGrace
	err = cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", xenapi.ErrXenapiPluginFailure(exitStatus(err), stdout.kept.String(), stderr.kept.String())
	}
	return pluginAnswer(stdout.kept.Bytes())
}

// plugin finds the executable of exactly this name in the plugins' directory.
// The name is compared with what is there, and never made part of a path.
func (s *Hosts) plugin(name string) (string, error) {
	missing := xenapi.ErrXenapiMissingPlugin(name)
	if s.PluginDir == "" {
		return "", missing
	}
	entries, err := os.ReadDir(s.PluginDir)
	if err != nil {
		return "", missing
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && entry.Name() == name && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return filepath.Join(s.PluginDir, entry.Name()), nil
		}
	}
	return "", missing
}

// exitStatus names how a plugin ended.
func exitStatus(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return strconv.Itoa(exit.ExitCode())
	}
	return err.Error()
}

// pluginCall writes the call of a function with a session and a struct.
func pluginCall(fn, session string, args map[string]string) (string, error) {
	var b bytes.Buffer
	text := func(open, s, end string) error {
		b.WriteString(open)
		err := xml.EscapeText(&b, []byte(s))
		b.WriteString(end)
		return err
	}
	err := errors.Join(text("<?xml version='1.0'?><methodCall><methodName>", fn, "</methodName><params>"),
		text("<param><value><string>", session, "</string></value></param><param><value><struct>"))
	for _, key := range slices.Sorted(maps.Keys(args)) {
		err = errors.Join(err, text("<member><name>", key, "</name>"), text("<value><string>", args[key], "</string></value></member>"))
	}
	b.WriteString("</struct></value></param></params></methodCall>")
	if strings.ContainsRune(b.String(), 0) {
		err = errors.Join(err, errors.New("a NUL among the arguments"))
	}
	return b.String(), err
}

// answer is as much of an XML-RPC answer as plugins give: Status and Value or
// ErrorDescription, or a fault.
type answer struct {
	Value value  `xml:"params>param>value"`
	Fault *value `xml:"fault>value"`
}

type value struct {
	Text    string   `xml:",chardata"`
	String  *string  `xml:"string"`
	Members []member `xml:"struct>member"`
	Items   []value  `xml:"array>data>value"`
}

type member struct {
	Name  string `xml:"name"`
	Value value  `xml:"value"`
}

func (v value) text() string {
	if v.String != nil {
		return *v.String
	}
	return v.Text
}

func (v value) member(name string) value {
	for _, m := range v.Members {
		if m.Name == name {
			return m.Value
		}
	}
	return value{}
}

// pluginAnswer reads what a plugin printed: its result, or the error that it
// reports.
func pluginAnswer(out []byte) (string, error) {
	garbled := func(reason string) error { return xenapi.ErrXenapiPluginFailure(reason, string(out), "") }
	var a answer
	if err := xml.Unmarshal(out, &a); err != nil {
		return "", garbled("the plugin's answer is not XML-RPC")
	}
	if a.Fault != nil {
		return "", garbled(a.Fault.member("faultString").text())
	}
	switch a.Value.member("Status").text() {
	case "Success":
		return a.Value.member("Value").text(), nil
	case "Failure":
		var description []string
		for _, item := range a.Value.member("ErrorDescription").Items {
			description = append(description, item.text())
		}
		if len(description) > 0 {
			return "", &xenapi.Error{Code: description[0], Params: description[1:]}
		}
	}
	return "", garbled("the plugin's answer has no status")
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	kept  bytes.Buffer
	limit int
}

// Write implements io.Writer; it fails once the limit is reached, which ends
// the plugin.
func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", io.ErrShortWrite, b.limit)
	}
	return b.kept.Write(p)
}
