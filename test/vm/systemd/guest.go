package systemd

import (
	"embed"
	"io"
	"io/fs"
	"strings"

	"github.com/bpfacq/bpfacq/test/vm/image"
)

// root holds files of the guest, at their paths: those that make it a site with
// an edge, and those that start the test.
//
//go:embed root
var root embed.FS

// imageSize is where on a machine's disk the file system ends and the parts begin,
// in bytes. The script "prepare" knows it.
const imageSize = 1 << 30

// guestImage is a small server: what most Debian servers have, and what the
// test needs. It holds nothing of a kernel and nothing of bpfacq.
func guestImage(progress io.Writer) (image.Spec, error) {
	files, err := guestFiles()
	return image.Spec{
		Name:  "systemd",
		Suite: "bookworm",
		Packages: []string{
			"systemd", "systemd-sysv", "dbus", "dbus-user-session", "udev", "kmod", "libpam-systemd", "sudo",
			"systemd-resolved", "libnss-resolve",
			"iproute2", "nftables", "curl", "ca-certificates", "procps",
		},
		Files: files,
		Run: []string{
			"systemctl --quiet mask " + strings.Join(masked(), " "),
			"systemctl --quiet enable systemd-networkd systemd-networkd-wait-online systemd-resolved",
			"ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
			"systemctl --quiet enable prepare site target@edge target@direct test",
			"systemctl --quiet add-wants multi-user.target network-online.target",
			"useradd --create-home --shell /bin/bash alice",
			// The package comes with its manual, as on other hosts.
			"rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap",
		},
		Size:     imageSize,
		Progress: progress,
	}, err
}

// guestFiles lists the files below root.
func guestFiles() (files []image.File, err error) {
	err = fs.WalkDir(root, "root", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(text), "#!") {
			mode = 0o755
		}
		files = append(files, image.File{Path: strings.TrimPrefix(name, "root"), Mode: mode, Text: string(text)})
		return nil
	})
	return files, err
}

// masked are units that cost seconds under emulation and have no part in the
// test.
func masked() []string {
	return []string{
		"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
		"console-getty.service", "getty@.service", "getty-static.service", "serial-getty@.service",
		"kmod-static-nodes.service", "systemd-pstore.service", "systemd-random-seed.service",
		"systemd-timesyncd.service", "systemd-udev-trigger.service", "systemd-update-utmp.service",
		"systemd-update-utmp-runlevel.service",
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
		"sys-fs-fuse-connections.mount",
	}
}
