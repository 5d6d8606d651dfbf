package faultfs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// dirNode and fileNode are what the kernel sees of dirs and files.
type dirNode struct {
	fs.Inode
	fs  *FS
	dir *dir
}

type fileNode struct {
	fs.Inode
	fs   *FS
	file *file
}

var (
	_ fs.NodeLookuper  = (*dirNode)(nil)
	_ fs.NodeReaddirer = (*dirNode)(nil)
	_ fs.NodeCreater   = (*dirNode)(nil)
	_ fs.NodeMkdirer   = (*dirNode)(nil)
	_ fs.NodeUnlinker  = (*dirNode)(nil)
	_ fs.NodeRmdirer   = (*dirNode)(nil)
	_ fs.NodeRenamer   = (*dirNode)(nil)
	_ fs.NodeFsyncer   = (*dirNode)(nil)
	_ fs.NodeGetattrer = (*dirNode)(nil)
	_ fs.NodeSetattrer = (*dirNode)(nil)
	_ fs.NodeOpener    = (*fileNode)(nil)
	_ fs.NodeReader    = (*fileNode)(nil)
	_ fs.NodeWriter    = (*fileNode)(nil)
	_ fs.NodeFsyncer   = (*fileNode)(nil)
	_ fs.NodeAllocater = (*fileNode)(nil)
	_ fs.NodeGetattrer = (*fileNode)(nil)
	_ fs.NodeSetattrer = (*fileNode)(nil)
)

// child makes the kernel's view of an entry.
func (n *dirNode) child(ctx context.Context, e entry, out *fuse.EntryOut) *fs.Inode {
	if e.dir != nil {
		out.Mode = syscall.S_IFDIR | 0o755
		return n.NewInode(ctx, &dirNode{fs: n.fs, dir: e.dir}, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: e.dir.id})
	}
	e.file.attr(&out.Attr)
	return n.NewInode(ctx, &fileNode{fs: n.fs, file: e.file}, fs.StableAttr{Mode: syscall.S_IFREG, Ino: e.file.id})
}

func (n *file) attr(out *fuse.Attr) {
	out.Mode, out.Size, out.Nlink = syscall.S_IFREG|0o644, uint64(n.size), 1
	out.Blocks, out.Blksize = uint64(n.size+sector-1)/sector, 4096
}

// Lookup implements fs.NodeLookuper.
func (n *dirNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	e, ok := n.dir.live[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	return n.child(ctx, e, out), 0
}

// Readdir implements fs.NodeReaddirer.
func (n *dirNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	var list []fuse.DirEntry
	for name, e := range n.dir.live {
		if e.dir != nil {
			list = append(list, fuse.DirEntry{Name: name, Ino: e.dir.id, Mode: syscall.S_IFDIR})
		} else {
			list = append(list, fuse.DirEntry{Name: name, Ino: e.file.id, Mode: syscall.S_IFREG})
		}
	}
	return fs.NewListDirStream(list), 0
}

// Create implements fs.NodeCreater.
func (n *dirNode) Create(ctx context.Context, name string, _ uint32, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	file, err := n.fs.newFile()
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	e := entry{file: file}
	n.fs.change(nameEdit{n.dir, name, e})
	return n.child(ctx, e, out), nil, 0, 0
}

// Mkdir implements fs.NodeMkdirer.
func (n *dirNode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	e := entry{dir: n.fs.newDir()}
	n.fs.change(nameEdit{n.dir, name, e})
	return n.child(ctx, e, out), 0
}

// Unlink implements fs.NodeUnlinker.
func (n *dirNode) Unlink(_ context.Context, name string) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.fs.change(nameEdit{in: n.dir, name: name})
	return 0
}

// Rmdir implements fs.NodeRmdirer.
func (n *dirNode) Rmdir(_ context.Context, name string) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if e := n.dir.live[name]; e.dir == nil || len(e.dir.live) > 0 {
		return syscall.ENOTEMPTY
	}
	n.fs.change(nameEdit{in: n.dir, name: name})
	return 0
}

// Rename implements fs.NodeRenamer.
func (n *dirNode) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 {
		return syscall.EINVAL
	}
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	to := parent.(*dirNode).dir
	n.fs.change(nameEdit{in: n.dir, name: name}, nameEdit{to, newName, n.dir.live[name]})
	return 0
}

// Fsync implements fs.NodeFsyncer, for directories.
func (n *dirNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.fs.syncDir(n.dir)
	return 0
}

// Getattr implements fs.NodeGetattrer.
func (n *dirNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o755, 2
	return 0
}

// Setattr implements fs.NodeSetattrer: modes and owners are not kept.
func (n *dirNode) Setattr(ctx context.Context, h fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.Getattr(ctx, h, out)
}

// Open implements fs.NodeOpener.
func (n *fileNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read implements fs.NodeReader.
func (n *fileNode) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultFd(n.file.data.Fd(), off, len(dest)), 0
}

// Write implements fs.NodeWriter.
func (n *fileNode) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if err := n.file.write(data, off); err != nil {
		return 0, fs.ToErrno(err)
	}
	return uint32(len(data)), 0
}

// Fsync implements fs.NodeFsyncer.
func (n *fileNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.file.pending = nil
	return 0
}

// keepSize is fallocate's FALLOC_FL_KEEP_SIZE.
const keepSize = 1

// Allocate implements fs.NodeAllocater.
func (n *fileNode) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	if mode == keepSize {
		return 0
	}
	if mode != 0 {
		return syscall.EOPNOTSUPP
	}
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return fs.ToErrno(n.file.resize(max(n.file.size, int64(off+size))))
}

// Getattr implements fs.NodeGetattrer.
func (n *fileNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.file.attr(&out.Attr)
	return 0
}

// Setattr implements fs.NodeSetattrer: only sizes are kept.
func (n *fileNode) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		n.fs.mu.Lock()
		err := n.file.resize(int64(size))
		n.fs.mu.Unlock()
		if err != nil {
			return fs.ToErrno(err)
		}
	}
	return n.Getattr(ctx, h, out)
}
