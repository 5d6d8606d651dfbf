package xenstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/xenctl"
)

// Tx is what operations run in: a transaction of Update. Its operations are those of Client.
type Tx struct {
	session *session
	id      uint32 // 0 is none
}

// Pauses between attempts of a transaction that met others, and how long xenstored may take to end one.
const (
	againMin   = time.Millisecond
	againMax   = 50 * time.Millisecond
	endTimeout = 5 * time.Second
)

// Update runs f in a transaction: what f writes is there all at once or, when f fails, not at all. f is run
// again when others changed what it read, until ctx ends.
func (c *Client) Update(ctx context.Context, f func(tx Tx) error) error {
	for pause := againMin; ; pause = min(2*pause, againMax) {
		s, err := c.session(ctx)
		if err != nil {
			return err
		}
		err = s.attempt(ctx, f)
		if !errors.Is(err, ErrAgain) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(xenctl.ContextError(ctx), err)
		}
	}
}

// attempt runs a transaction once.
func (s *session) attempt(ctx context.Context, f func(tx Tx) error) error {
	out, err := s.ask(ctx, opTransactionStart, 0, "", terminated(""), func(late frame) {
		if tx, err := transactionOf(late.payload); err == nil {
			tx.session = s
			tx.abort(ctx)
		}
	})
	if err != nil {
		return err
	}
	tx, err := transactionOf(out)
	if err != nil {
		return err
	}
	tx.session = s
	if err := f(tx); err != nil {
		tx.abort(ctx)
		return err
	}
	_, err = s.ask(ctx, opTransactionEnd, tx.id, "", terminated("T"), nil)
	return err
}

// abort ends a transaction without effect. One that isn't ended in time costs the connection: what xenstored
// keeps for it must not stay.
func (t Tx) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if _, err := t.session.ask(ctx, opTransactionEnd, t.id, "", terminated("F"), nil); err != nil {
		t.session.kill(fmt.Errorf("%w: a transaction could not be ended: %w", xenctl.ErrUnavailable, err))
	}
}

func transactionOf(payload []byte) (Tx, error) {
	n, err := strconv.ParseUint(strings.TrimSuffix(string(payload), "\x00"), 10, 32)
	if err != nil || n == 0 {
		return Tx{}, fmt.Errorf("%w: xenstored names a transaction %q", xenctl.ErrUnavailable, payload)
	}
	return Tx{id: uint32(n)}, nil
}

// do is one operation on a path.
func (t Tx) do(ctx context.Context, o op, path string, payload []byte) ([]byte, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return nil, &Error{o.String(), path, "EINVAL"}
	}
	return t.session.ask(ctx, o, t.id, path, payload, nil)
}

// Read returns the value of a key.
func (t Tx) Read(ctx context.Context, path string) (string, error) {
	out, err := t.do(ctx, opRead, path, terminated(path))
	return string(out), err
}

// Write sets a key.
func (t Tx) Write(ctx context.Context, path, value string) error {
	_, err := t.do(ctx, opWrite, path, append(terminated(path), value...))
	return err
}

// Mkdir makes a key without a value.
func (t Tx) Mkdir(ctx context.Context, path string) error {
	_, err := t.do(ctx, opMkdir, path, terminated(path))
	return err
}

// Remove removes a key and all below.
func (t Tx) Remove(ctx context.Context, path string) error {
	_, err := t.do(ctx, opRemove, path, terminated(path))
	return err
}

// Check makes sure that a domain's part of xenstore is its own still (xenctl.ErrNotFound): keys that are written below
// one that has gone would be removed by nobody.
func (t Tx) Check(ctx context.Context, domain xenctl.Domain) error {
	owner, err := t.Read(ctx, fmt.Sprintf("/local/domain/%d/vm", domain.ID))
	if errors.Is(err, ErrNotFound) || err == nil && !strings.HasSuffix(owner, domain.UUID) {
		return fmt.Errorf("%w: domain %d is not %s", xenctl.ErrNotFound, domain.ID, domain.UUID)
	}
	return err
}

// List returns the names of the keys right below one.
func (t Tx) List(ctx context.Context, path string) ([]string, error) {
	out, err := t.do(ctx, opDirectory, path, terminated(path))
	if e, ok := errors.AsType[*Error](err); ok && e.Code == "E2BIG" {
		return t.listParts(ctx, path)
	}
	return split(out), err
}

// listParts reads a list that doesn't fit into one message. Each part begins with the generation of the list;
// when that changes it is read from the start. An empty name ends the last part.
func (t Tx) listParts(ctx context.Context, path string) ([]string, error) {
	var list []byte
	generation := ""
	for {
		out, err := t.do(ctx, opDirectoryPart, path, terminated(path, strconv.Itoa(len(list))))
		if err != nil {
			return nil, err
		}
		now, part, ok := strings.Cut(string(out), "\x00")
		if !ok || part == "" {
			return nil, fmt.Errorf("%w: xenstored sends a part of a list without an end", xenctl.ErrUnavailable)
		}
		if len(list) > 0 && now != generation {
			list = nil
			continue
		}
		generation = now
		list = append(list, part...)
		if part == "\x00" || strings.HasSuffix(part, "\x00\x00") {
			return split(list[:len(list)-1]), nil
		}
	}
}
