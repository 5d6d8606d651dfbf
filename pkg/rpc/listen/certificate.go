package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// certFile holds the private key and the chain in one file, so that they are
// replaced together.
const certFile = "server.pem"

// selfSignedFor is how long a certificate of our own lasts.
const selfSignedFor = 10 * 365 * 24 * time.Hour

// Certificate is the server's certificate on disk and in use.
type Certificate struct {
	path    string
	current atomic.Pointer[tls.Certificate]
}

// OpenCertificate loads the certificate in dir, or makes a self-signed one for
// the names (host names or addresses) when there is none.
func OpenCertificate(dir string, names ...string) (*Certificate, error) {
	c := &Certificate{path: filepath.Join(dir, certFile)}
	text, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = selfSigned(names); err == nil {
			err = writeFile(c.path, text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen: certificate: %w", err)
	}
	return c, c.use(text)
}

// Replace takes another certificate into use, for connections from now on. The
// old one stays when the key is not the certificate's.
func (c *Certificate) Replace(chainPEM, keyPEM []byte) error {
	text := append(append([]byte{}, keyPEM...), '\n')
	text = append(text, chainPEM...)
	if _, err := tls.X509KeyPair(text, text); err != nil {
		return fmt.Errorf("listen: certificate: %w", err)
	}
	if err := writeFile(c.path, text); err != nil {
		return fmt.Errorf("listen: certificate: %w", err)
	}
	return c.use(text)
}

func (c *Certificate) use(text []byte) error {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return fmt.Errorf("listen: certificate %s: %w", c.path, err)
	}
	c.current.Store(&pair)
	return nil
}

// PEM is the certificate chain without the key.
func (c *Certificate) PEM() []byte {
	var out []byte
	for _, der := range c.current.Load().Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// Fingerprint is the SHA-256 of the certificate, in hexadecimal digits.
func (c *Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.current.Load().Certificate[0])
	return hex.EncodeToString(sum[:])
}

func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

func selfSigned(names []string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "xapid"},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(selfSignedFor),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if len(names) > 0 {
		template.Subject.CommonName = names[0]
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

// writeFile replaces a private file: a crash leaves the old or the new one.
func writeFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
