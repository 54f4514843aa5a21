package cli

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWhatIsToldOfAnErrorHasNoWordsOfItsClass(t *testing.T) {
	gone := fmt.Errorf("no container \"a\": %w", errdefs.ErrNotFound)
	for _, tc := range []struct {
		err  error
		want string
	}{
		{gone, `no container "a"`},
		{errors.Join(gone, errors.New("second\n\n")), "no container \"a\"\nsecond"},
		{fmt.Errorf("image \"a\": %w: there are no images", errdefs.ErrNotFound), `image "a": not found: there are no images`},
		{fmt.Errorf("open: %w", syscall.EINVAL), "open: invalid argument"},
		{errors.New("answers 500 \x1b]0;x\a\n\tsecond"), "answers 500 \\x1b]0;x\\a\n\tsecond"},
	} {
		if got := message(tc.err); got != tc.want {
			t.Errorf("%q is told as %q instead of %q", tc.err, got, tc.want)
		}
	}
}
