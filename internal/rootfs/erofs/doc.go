// Package erofs writes uncompressed EROFS disks: a tree of inodes that is held in memory, and the contents of its files,
// which go to the disk once, as they come.
//
// It exists because every way that is at hand loses something: github.com/erofs/go-erofs v0.3.1 makes two inodes of a hard
// link and fills holes, and mkfs.erofs of Debian 12 takes only a directory, so that an image would have to be unpacked as
// root first.
//
// Legal order: New; any number of DataWriters, each used by one goroutine and flushed at its end; Discard of contents that
// are not in the tree; Finish, once. After an error the file is worth nothing.
package erofs
