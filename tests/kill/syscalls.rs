//! Which system calls change the host, and what a person needs to see of them.
//!
//! Left out on purpose: what changes only the calling process (memory, credentials, threads), pipes and event
//! descriptors, terminals, log files, and questions to netlink.

use std::collections::HashMap;

use crate::process::{descriptor, memory, text, word};
use crate::ptrace::Tid;

/// When a call counts.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// If the argument has one of these bits.
    Has(usize, u64),
    /// If the first word of the structure that the argument points to has one of these bits.
    PointsTo(usize, u64),
    /// If it makes a process, not a thread: the flags are the argument, or what it points to.
    Process(usize),
    ProcessAt(usize),
    /// If the argument is a descriptor of a file (or of an interface of the kernel that looks like one).
    File(usize),
    /// If the argument is not 0: signal 0 only asks.
    NotZero(usize),
    /// If the argument is a command of `quotactl` that sets a limit.
    SetsQuota(usize),
    /// If the ioctl in argument 1 does more than ask.
    Ioctl,
    /// If the bytes sent are a netlink message that does more than ask.
    Netlink(Buffer),
}

#[derive(Clone, Copy)]
enum Buffer {
    /// Argument 1 points to them.
    Direct,
    /// Argument 1 points to a `msghdr`, and so to a vector.
    Message,
}

/// An argument as it is shown.
#[derive(Clone, Copy)]
enum Show {
    Text(usize),
    Descriptor(usize),
    /// A directory's descriptor, and a path in the next argument.
    At(usize),
    Number(usize),
    Hex(usize),
    /// The bytes that are written: address, length.
    Bytes(usize, usize),
}

use Show::{At, Bytes, Descriptor, Hex, Number, Text};
use When::{Always, File, Has, Ioctl, Netlink, NotZero, PointsTo, Process, ProcessAt, SetsQuota};

const CREATES: u64 =
    (libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)).cast_unsigned() as u64;

type Row = (i64, &'static str, When, &'static [Show]);

#[rustfmt::skip]
const CALLS: &[Row] = &[
    // Mounts.
    (libc::SYS_mount, "mount", Always, &[Text(0), Text(1), Text(2), Hex(3)]),
    (libc::SYS_umount2, "umount2", Always, &[Text(0), Hex(1)]),
    (libc::SYS_fsopen, "fsopen", Always, &[Text(0)]),
    (libc::SYS_fsconfig, "fsconfig", Always, &[Number(1), Text(2), Text(3)]),
    (libc::SYS_fsmount, "fsmount", Always, &[]),
    (libc::SYS_move_mount, "move_mount", Always, &[At(0), At(2)]),
    (libc::SYS_open_tree, "open_tree", Has(2, libc::OPEN_TREE_CLONE as u64), &[At(0)]),
    (libc::SYS_mount_setattr, "mount_setattr", Always, &[At(0)]),
    (libc::SYS_pivot_root, "pivot_root", Always, &[Text(0), Text(1)]),
    // Names.
    (libc::SYS_mkdirat, "mkdirat", Always, &[At(0)]),
    (libc::SYS_mknodat, "mknodat", Always, &[At(0)]),
    (libc::SYS_renameat, "renameat", Always, &[At(0), At(2)]),
    (libc::SYS_renameat2, "renameat2", Always, &[At(0), At(2)]),
    (libc::SYS_unlinkat, "unlinkat", Always, &[At(0)]),
    (libc::SYS_linkat, "linkat", Always, &[At(0), At(2)]),
    (libc::SYS_symlinkat, "symlinkat", Always, &[Text(0), At(1)]),
    (libc::SYS_openat, "openat", Has(2, CREATES), &[At(0)]),
    (libc::SYS_openat2, "openat2", PointsTo(2, CREATES), &[At(0)]),
    // Content.
    (libc::SYS_write, "write", File(0), &[Descriptor(0), Bytes(1, 2)]),
    (libc::SYS_writev, "writev", File(0), &[Descriptor(0)]),
    (libc::SYS_pwrite64, "pwrite64", File(0), &[Descriptor(0)]),
    (libc::SYS_pwritev, "pwritev", File(0), &[Descriptor(0)]),
    (libc::SYS_pwritev2, "pwritev2", File(0), &[Descriptor(0)]),
    (libc::SYS_copy_file_range, "copy_file_range", File(2), &[Descriptor(0), Descriptor(2)]),
    (libc::SYS_sendfile, "sendfile", File(0), &[Descriptor(0), Descriptor(1)]),
    (libc::SYS_splice, "splice", File(2), &[Descriptor(2)]),
    (libc::SYS_truncate, "truncate", Always, &[Text(0), Number(1)]),
    (libc::SYS_ftruncate, "ftruncate", File(0), &[Descriptor(0), Number(1)]),
    (libc::SYS_fallocate, "fallocate", File(0), &[Descriptor(0), Hex(1), Number(2), Number(3)]),
    (libc::SYS_fsync, "fsync", Always, &[Descriptor(0)]),
    (libc::SYS_fdatasync, "fdatasync", Always, &[Descriptor(0)]),
    (libc::SYS_sync, "sync", Always, &[]),
    (libc::SYS_syncfs, "syncfs", Always, &[Descriptor(0)]),
    // Attributes.
    (libc::SYS_fchmod, "fchmod", File(0), &[Descriptor(0), Hex(1)]),
    (libc::SYS_fchmodat, "fchmodat", Always, &[At(0)]),
    (libc::SYS_fchown, "fchown", File(0), &[Descriptor(0)]),
    (libc::SYS_fchownat, "fchownat", Always, &[At(0)]),
    (libc::SYS_setxattr, "setxattr", Always, &[Text(0), Text(1)]),
    (libc::SYS_lsetxattr, "lsetxattr", Always, &[Text(0), Text(1)]),
    (libc::SYS_fsetxattr, "fsetxattr", Always, &[Descriptor(0), Text(1)]),
    (libc::SYS_flock, "flock", Always, &[Descriptor(0), Number(1)]),
    (libc::SYS_quotactl_fd, "quotactl_fd", SetsQuota(1), &[Descriptor(0), Number(2)]),
    (libc::SYS_quotactl, "quotactl", SetsQuota(0), &[Text(1), Number(2)]),
    // Devices, links, processes, namespaces.
    (libc::SYS_ioctl, "ioctl", Ioctl, &[Descriptor(0), Hex(1)]),
    (libc::SYS_sendto, "sendto", Netlink(Buffer::Direct), &[]),
    (libc::SYS_sendmsg, "sendmsg", Netlink(Buffer::Message), &[]),
    (libc::SYS_clone, "clone", Process(0), &[Hex(0)]),
    (libc::SYS_clone3, "clone3", ProcessAt(0), &[]),
    (libc::SYS_execve, "execve", Always, &[Text(0)]),
    (libc::SYS_execveat, "execveat", Always, &[At(0)]),
    (libc::SYS_setns, "setns", Always, &[Descriptor(0), Hex(1)]),
    (libc::SYS_unshare, "unshare", Always, &[Hex(0)]),
    (libc::SYS_kill, "kill", NotZero(1), &[Number(0), Number(1)]),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal", NotZero(1), &[Number(1)]),
    (libc::SYS_sethostname, "sethostname", Always, &[Text(0)]),
    (libc::SYS_bpf, "bpf", Always, &[Number(0)]),
    (libc::SYS_finit_module, "finit_module", Always, &[Descriptor(0)]),
];

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD_CALLS: &[Row] = &[
    (libc::SYS_mkdir, "mkdir", Always, &[Text(0)]),
    (libc::SYS_rmdir, "rmdir", Always, &[Text(0)]),
    (libc::SYS_mknod, "mknod", Always, &[Text(0)]),
    (libc::SYS_rename, "rename", Always, &[Text(0), Text(1)]),
    (libc::SYS_unlink, "unlink", Always, &[Text(0)]),
    (libc::SYS_link, "link", Always, &[Text(0), Text(1)]),
    (libc::SYS_symlink, "symlink", Always, &[Text(0), Text(1)]),
    (libc::SYS_open, "open", Has(1, CREATES), &[Text(0)]),
    (libc::SYS_creat, "creat", Always, &[Text(0)]),
    (libc::SYS_chmod, "chmod", Always, &[Text(0), Hex(1)]),
    (libc::SYS_chown, "chown", Always, &[Text(0)]),
    (libc::SYS_lchown, "lchown", Always, &[Text(0)]),
    (libc::SYS_fork, "fork", Always, &[]),
    (libc::SYS_vfork, "vfork", Always, &[]),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Row] = &[];

/// Tells the calls that change the host from the others, and remembers which sockets are netlink's.
#[derive(Default)]
pub(crate) struct Decoder {
    /// "socket:[1234]" and the protocol.
    netlink: HashMap<String, u64>,
}

impl Decoder {
    /// The call as text, if it changes the host. The thread must be stopped at its entry.
    pub(crate) fn enter(&self, tid: Tid, number: i64, args: &[u64; 6]) -> Option<String> {
        let (_, name, when, shown) = CALLS.iter().chain(OLD_CALLS).find(|row| row.0 == number)?;
        let mut message = None;
        let counts = match *when {
            Always => true,
            Has(index, bits) => args[index] & bits != 0,
            PointsTo(index, bits) => word(tid, args[index])? & bits != 0,
            Process(index) => is_process(args[index]),
            ProcessAt(index) => is_process(word(tid, args[index])?),
            File(index) => is_file(&descriptor(tid, args[index])?),
            NotZero(index) => args[index] & 0xffff_ffff != 0,
            SetsQuota(index) => {
                (args[index] & 0xffff_ffff) >> 8 == u64::from(libc::Q_SETQUOTA.cast_unsigned())
            }
            Ioctl => ioctl_changes(args[1] & 0xffff_ffff),
            Netlink(buffer) => {
                message = self.message(tid, args, buffer);
                message.is_some()
            }
        };
        if !counts {
            return None;
        }
        let words: Vec<String> =
            shown.iter().filter_map(|show| render(tid, args, *show)).chain(message).collect();
        Some(format!("{name}({})", words.join(", ")))
    }

    /// Takes note of a call that has ended.
    pub(crate) fn leave(&mut self, tid: Tid, number: i64, args: &[u64; 6], result: i64) {
        let domain: u64 = libc::AF_NETLINK.cast_unsigned().into();
        if number != libc::SYS_socket || args[0] != domain {
            return;
        }
        if let Some(socket) = u64::try_from(result).ok().and_then(|fd| descriptor(tid, fd)) {
            self.netlink.insert(socket, args[2]);
        }
    }

    /// What a netlink message does; `None` if it changes nothing, or goes to another kind of socket.
    fn message(&self, tid: Tid, args: &[u64; 6], buffer: Buffer) -> Option<String> {
        let protocol = self.netlink.get(&descriptor(tid, args[0])?)?;
        let start = match buffer {
            Buffer::Direct => args[1],
            // struct msghdr: name, its length, then the vector, whose first word is the address.
            Buffer::Message => word(tid, word(tid, args[1] + 16)?)?,
        };
        // struct nlmsghdr: 4 bytes of length, 2 bytes of type.
        let header = memory(tid, start, 6)?;
        let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
        let protocol = i32::try_from(*protocol).ok()?;
        match protocol {
            libc::NETLINK_ROUTE => route_message(kind),
            // nftables changes something in batches only.
            libc::NETLINK_NETFILTER if i32::from(kind) == libc::NFNL_MSG_BATCH_BEGIN => {
                Some("nftables batch".to_owned())
            }
            _ => None,
        }
    }
}

/// rtnetlink's types come in fours: new, delete, get, set.
fn route_message(kind: u16) -> Option<String> {
    const OBJECTS: [&str; 8] = ["LINK", "ADDR", "ROUTE", "NEIGH", "RULE", "QDISC", "TCLASS", "TFILTER"];
    let kind = kind.checked_sub(libc::RTM_NEWLINK)?;
    let verb = match kind % 4 {
        0 => "NEW",
        1 => "DEL",
        2 => return None,
        _ => "SET",
    };
    let object = OBJECTS.get(usize::from(kind / 4)).map_or_else(|| kind.to_string(), |&name| name.to_owned());
    Some(format!("RTM_{verb}{object}"))
}

fn is_process(flags: u64) -> bool {
    flags & u64::from(libc::CLONE_THREAD.cast_unsigned()) == 0
}

fn is_file(descriptor: &str) -> bool {
    // One line more or less in a log is no state of the host.
    let log = descriptor.ends_with(".log") || descriptor.ends_with("/log");
    let device = descriptor.starts_with("/dev/") && !descriptor.starts_with("/dev/loop");
    descriptor.starts_with('/') && !descriptor.starts_with("/memfd:") && !device && !log
}

/// An ioctl's number holds the driver's letter, and whether the kernel only hands something out.
fn ioctl_changes(number: u64) -> bool {
    const TERMINALS: u64 = 0x54;
    const NAMESPACES: u64 = 0xb7;
    const LOOP_GET_STATUS: [u64; 2] = [0x4c03, 0x4c05];
    let only_hands_out = number >> 30 == 2;
    let letter = (number >> 8) & 0xff;
    !only_hands_out && letter != TERMINALS && letter != NAMESPACES && !LOOP_GET_STATUS.contains(&number)
}

fn render(tid: Tid, args: &[u64; 6], show: Show) -> Option<String> {
    match show {
        Text(index) => Some(format!("{:?}", text(tid, args[index])?)),
        Descriptor(index) => descriptor(tid, args[index]),
        Number(index) => Some(args[index].to_string()),
        Hex(index) => Some(format!("{:#x}", args[index])),
        At(index) => {
            let path = text(tid, args[index + 1]).unwrap_or_default();
            let relative = !path.starts_with('/');
            let directory = if relative { descriptor(tid, args[index]) } else { None };
            Some(directory.map_or_else(|| path.clone(), |directory| format!("{directory}/{path}")))
        }
        Bytes(address, length) => {
            let length = usize::try_from(args[length]).ok()?.min(40);
            Some(format!("{:?}", String::from_utf8_lossy(&memory(tid, args[address], length)?)))
        }
    }
}

/// Whether a counted call can take as long as another thread or process wants it to, and so must not be waited for.
pub(crate) fn may_wait_for_others(number: i64) -> bool {
    let old = OLD_CALLS.iter().any(|(old, name, ..)| *old == number && name.ends_with("fork"));
    old || [libc::SYS_flock, libc::SYS_clone, libc::SYS_clone3, libc::SYS_execve, libc::SYS_execveat]
        .contains(&number)
}
