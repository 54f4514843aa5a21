package registry

import "github.com/opencontainers/go-digest"

// Progress is told what a pull does. Its methods may be called by several goroutines.
type Progress interface {
	// Layer announces a layer of a size in bytes.
	Layer(d digest.Digest, size int64) LayerProgress
	// Note is one line about something out of the ordinary, such as another try.
	Note(line string)
}

// LayerProgress follows one layer; it is for one goroutine, and Done ends it.
type LayerProgress interface {
	// Waiting says that another pull is getting the layer.
	Waiting()
	// Have says how many of its bytes were there already.
	Have(n int64)
	// Add says that n more bytes came.
	Add(n int)
	// Done says how it ended.
	Done(err error)
}

type silent struct{}

func (silent) Layer(digest.Digest, int64) LayerProgress { return silent{} }
func (silent) Note(string)                              {}
func (silent) Waiting()                                 {}
func (silent) Have(int64)                               {}
func (silent) Add(int)                                  {}
func (silent) Done(error)                               {}
