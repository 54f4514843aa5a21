package ocicli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) updateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "update ID", Short: "Change a container's limits", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("update is not supported: the limits of a container are those that it was created with")
		},
	}
}
