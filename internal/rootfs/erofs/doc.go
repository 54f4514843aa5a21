// Package erofs writes uncompressed EROFS disks: a tree of inodes that is held in memory, and the contents of its files,
// which go to the disk once, as they come.
//
// It exists because one test (TestDirectoryDiskIsExact of internal/rootfs: every kind of file, compared after a mount) is
// passed by nothing else at hand: github.com/erofs/go-erofs v0.3.1 refuses names that are not UTF-8, makes two inodes of a
// hard link, drops extended attributes of a directory and fills holes; mkfs.erofs 1.5 of Debian 12 fails on such a tree, and
// takes only a directory, so that an image would have to be unpacked as root first.
//
// Legal order: New; any number of DataWriters, each used by one goroutine and flushed at its end; Discard of contents that
// are not in the tree; Finish, once. After an error the file is worth nothing.
package erofs
