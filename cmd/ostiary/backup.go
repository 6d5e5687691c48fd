package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
)

type backupCmd struct {
	Dir  string `arg:"" help:"The folder to make; it must not exist. A running gateway writes it, so its user must be able to."`
	Keys bool   `help:"Copy the private keys too. Whoever reads the backup can then sign as this gateway and open everything."`
}

func (c *backupCmd) Help() string {
	return `Makes a consistent copy of store, log and identity, while the gateway runs or when it is stopped. The keys are
left out unless you say --keys: keep them apart, because with them the copy is the gateway.`
}

func (c *backupCmd) Run(e *env) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	r := control.BackupRequest{Dir: dir, Keys: c.Keys}
	var out control.BackedUp
	err = e.ask(http.MethodPost, "/v1/backup", nil, r, &out)
	if err != nil && ostiary.AsError(err).Code == "not_running" {
		cfg, cerr := daemon.ReadConfig(e.cli.Config)
		if cerr != nil {
			return cerr
		}
		out, err = daemon.Backup(e.ctx, cfg, r)
	}
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "backed up to %s\n", out.Dir)
	if out.Keys {
		fmt.Fprintln(e.stderr, "THE PRIVATE KEYS ARE IN IT. Whoever reads this folder can sign as this gateway, issue identities, and open every sealed entry. Encrypt it before it leaves this machine.")
	} else {
		fmt.Fprintln(e.stderr, "The private keys are not in it, and without them nothing of it can be opened or continued. Keep a copy of the keys folder apart from it.")
	}
	return nil
}

type restoreCmd struct {
	Dir          string `arg:"" optional:"" help:"The backup."`
	ConfirmEpoch bool   `help:"Let a restored data folder decide again. Say so only if no other copy of this gateway runs or ever will."`
}

func (c *restoreCmd) Help() string {
	return `Verifies a backup and copies it into the configured data folder, which must be empty, except for keys that the
backup does not have. What was restored is fenced: it can be verified, and no gateway starts in it, until
--confirm-epoch. Revocations, acceptances and enrolments after the backup are not in it: do them again.`
}

func (c *restoreCmd) Run(e *env) error {
	if (c.Dir == "") != c.ConfirmEpoch {
		return ostiary.Errorf(ostiary.Malformed, "restore", "name a backup, or say --confirm-epoch after you have restored one")
	}
	cfg, err := daemon.ReadConfig(e.cli.Config)
	if err != nil {
		return err
	}
	if c.ConfirmEpoch {
		return c.confirm(e, cfg)
	}
	r, err := daemon.Restore(e.ctx, cfg, c.Dir)
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(r)
	}
	fmt.Fprintf(e.stdout, "restored the backup of %s to %s; %d entries of its log verify\n", r.Created.Format(time.RFC3339), r.Data, r.Entries)
	next := 1
	step := func(text string) {
		fmt.Fprintf(e.stdout, "%d. %s\n", next, text)
		next++
	}
	step("Make sure that the gateway it was made of is stopped and stays so.")
	if !r.Keys {
		step("Copy the keys to " + filepath.Join(r.Data, "keys") + ", each with mode 0600.")
	}
	step("ostiary restore --confirm-epoch")
	step("Revoke again whom you revoked since, accept and enrol again what you did since, then: ostiary serve")
	return nil
}

func (c *restoreCmd) confirm(e *env, cfg *daemon.Config) error {
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	epoch, err := daemon.ConfirmEpoch(e.ctx, cfg, account(), log)
	if err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(map[string]uint64{"epoch": epoch})
	}
	fmt.Fprintf(e.stdout, "deployment epoch %d; a copy with a lower one is refused by this log from now on. Start it with: ostiary serve\n", epoch)
	return nil
}

// account is the user who runs this, for the log.
func account() string {
	u, err := user.Current()
	if err != nil {
		return "uid " + strconv.Itoa(syscall.Getuid())
	}
	return u.Username
}
