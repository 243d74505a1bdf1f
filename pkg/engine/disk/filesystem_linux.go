package disk

import "golang.org/x/sys/unix"

// networkFS are the file systems whose locks, links and fsync other machines take
// part in, by their magic number (statfs(2)).
var networkFS = map[int64]string{
	0x6969: "NFS", 0x517b: "SMB", 0xfe534d42: "SMB2", 0xff534d42: "CIFS", 0x01021997: "9p", 0x00c36400: "Ceph", 0x65735546: "FUSE",
	0x5346414f: "AFS", 0x73757245: "Coda", 0x0bd00bd0: "Lustre", 0x01161970: "GFS2", 0x7461636f: "OCFS2",
}

// NetworkFS names the network file system on which a path stands, "" for a local
// one. FUSE may be either. known is false where this machine does not tell.
func NetworkFS(path string) (name string, known bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return "", false
	}
	return networkFS[int64(uint32(s.Type))], true //nolint:gosec // the field's type differs between machines
}
