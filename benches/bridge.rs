//! What a bridge costs: made, found to be as asked, and removed, against the same by the fewest netlink messages, and
//! against `ip`; in turns in one run. Run it as root: `cargo bench --bench bridge [ROUNDS]`.
//!
//! Not criterion's loop: the sides must meet the same kernel at the same time, so they alternate. The bare side checks
//! nothing and waits for each answer, as it needs the number that the kernel gave the bridge.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(unsafe_code)]

use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink};
use rustix::thread::{UnshareFlags, unshare_unsafe};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const OWNER: &str = "docklet-bench/bridge";
const ADDRESS: &str = "10.99.0.1/24";

/// What each side does, and how long it took.
#[derive(Default)]
struct Times {
    made: Vec<Duration>,
    again: Vec<Duration>,
    removed: Vec<Duration>,
}

fn main() -> Outcome {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(101);
    // SAFETY: only FILES and memory are dangerous to unshare, and there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let net = runtime.block_on(Netlink::connect())?;
    let mut bare = Bare::connect()?;
    let (mut ours, mut messages, mut processes) = (Times::default(), Times::default(), Times::default());
    for round in 0..rounds {
        let mut sides: [&mut dyn FnMut() -> Outcome; 3] = [
            &mut || runtime.block_on(docklet(&net, &mut ours)),
            &mut || by_messages(&mut bare, &mut messages),
            &mut || by_processes(&mut processes),
        ];
        // Nobody is always the first after somebody's removal.
        sides.rotate_left(round % 3);
        for side in sides {
            side()?;
        }
    }
    println!("{rounds} rounds in turns; medians");
    println!(
        "{:<26} {:>10} {:>10} {:>7} {:>10} {:>7}",
        "a bridge, an address", "docklet", "messages", "ratio", "ip", "ratio"
    );
    for (what, times) in [
        ("made", [&mut ours.made, &mut messages.made, &mut processes.made]),
        ("found as asked", [&mut ours.again, &mut messages.again, &mut processes.again]),
        ("removed", [&mut ours.removed, &mut messages.removed, &mut processes.removed]),
    ] {
        let [ours, messages, processes] = times.map(|times| median(times));
        let ratio = |other: Duration| ours.as_secs_f64() / other.as_secs_f64();
        println!(
            "{what:<26} {ours:>10.1?} {messages:>10.1?} {:>7.2} {processes:>10.1?} {:>7.3}",
            ratio(messages),
            ratio(processes)
        );
    }
    Ok(())
}

async fn docklet(net: &Netlink, times: &mut Times) -> Outcome {
    let spec = BridgeSpec {
        addresses: vec![ADDRESS.parse()?],
        ..BridgeSpec::new(LinkName::new("ours")?, LinkOwner::new(OWNER)?)
    };
    let started = Instant::now();
    assert!(Bridge::ensure(net, &spec).await?.changed());
    times.made.push(started.elapsed());
    let started = Instant::now();
    assert!(!Bridge::ensure(net, &spec).await?.changed());
    times.again.push(started.elapsed());
    let started = Instant::now();
    Bridge::remove(net, &spec.name, &spec.owner).await?;
    times.removed.push(started.elapsed());
    Ok(())
}

fn by_messages(bare: &mut Bare, times: &mut Times) -> Outcome {
    let started = Instant::now();
    bare.make()?;
    times.made.push(started.elapsed());
    let started = Instant::now();
    let index = bare.look()?;
    times.again.push(started.elapsed());
    let started = Instant::now();
    bare.remove(index)?;
    times.removed.push(started.elapsed());
    Ok(())
}

fn by_processes(times: &mut Times) -> Outcome {
    let ip = |arguments: &[&str]| -> Outcome {
        let output = Command::new("ip").args(arguments).output()?;
        if output.status.success() { Ok(()) } else { Err(format!("ip {arguments:?}: {output:?}").into()) }
    };
    let started = Instant::now();
    ip(&["link", "add", "byip", "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
    ip(&["link", "set", "byip", "alias", OWNER, "up"])?;
    ip(&["address", "add", ADDRESS, "broadcast", "+", "dev", "byip"])?;
    times.made.push(started.elapsed());
    let started = Instant::now();
    ip(&["-d", "address", "show", "byip"])?;
    times.again.push(started.elapsed());
    let started = Instant::now();
    ip(&["link", "delete", "byip"])?;
    times.removed.push(started.elapsed());
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A netlink socket, and a bridge made with the fewest messages.
struct Bare {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

const NAME: &[u8] = b"bare\0";
const MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 1];
const IP: [u8; 4] = [10, 99, 0, 1];
const BROADCAST: [u8; 4] = [10, 99, 0, 255];
// From `linux/netlink.h`: NLM_F_REQUEST; NLM_F_ACK; NLM_F_CREATE, NLM_F_EXCL; NLM_F_DUMP.
const REQUEST: u16 = 0x1;
const ACK: u16 = REQUEST | 0x4;
const CREATE: u16 = ACK | 0x400 | 0x200;
const DUMP: u16 = REQUEST | 0x300;
/// From `linux/if_link.h`, which libc leaves out.
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;

impl Bare {
    fn connect() -> Outcome<Self> {
        // SAFETY: a system call without pointers; its result is checked.
        let socket = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if socket < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: it was opened just now, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one `int`.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_GET_STRICT_CHK,
                (&raw const on).cast(),
                libc::socklen_t::try_from(size_of_val(&on))?,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self { socket, buffer: vec![0; 65_536] })
    }

    /// The bridge, its mark, up, with its address.
    fn make(&mut self) -> Outcome {
        let mut data = Message::default();
        data.attribute(IFLA_BR_FORWARD_DELAY, &0_u32.to_ne_bytes());
        data.attribute(IFLA_BR_STP_STATE, &0_u32.to_ne_bytes());
        let mut info = Message::default();
        info.attribute(libc::IFLA_INFO_KIND, b"bridge");
        info.attribute(libc::IFLA_INFO_DATA, &data.0);
        let mut link = Message::link(0, false);
        link.attribute(libc::IFLA_IFNAME, NAME);
        link.attribute(libc::IFLA_ADDRESS, &MAC);
        link.attribute(libc::IFLA_LINKINFO, &info.0);
        self.talk(&[link.finish(libc::RTM_NEWLINK, CREATE)], 1)?;

        let index = self.number()?;
        let mut mark = Message::link(index, true);
        mark.attribute(libc::IFLA_IFALIAS, OWNER.as_bytes());
        let mut address = Message::address(index, 24);
        address.attribute(libc::IFA_LOCAL, &IP);
        address.attribute(libc::IFA_ADDRESS, &IP);
        address.attribute(libc::IFA_BROADCAST, &BROADCAST);
        self.talk(&[mark.finish(libc::RTM_SETLINK, ACK), address.finish(libc::RTM_NEWADDR, CREATE)], 2)
    }

    /// The link and its addresses, to be compared with what was asked for.
    fn look(&mut self) -> Outcome<u32> {
        let index = self.number()?;
        self.talk(&[Message::address(index, 0).finish(libc::RTM_GETADDR, DUMP)], 1)?;
        Ok(index)
    }

    fn remove(&mut self, index: u32) -> Outcome {
        self.talk(&[Message::link(index, false).finish(libc::RTM_DELLINK, ACK)], 1)
    }

    fn number(&mut self) -> Outcome<u32> {
        let mut question = Message::link(0, false);
        question.attribute(libc::IFLA_IFNAME, NAME);
        self.send(&[question.finish(libc::RTM_GETLINK, REQUEST)])?;
        let length = self.receive()?;
        let answer = &self.buffer[..length];
        if word(answer, 4)? & 0xffff == u32::from(libc::RTM_NEWLINK) {
            word(answer, 20)
        } else {
            Err(format!("no link: {}", word(answer, 16)?.cast_signed()).into())
        }
    }

    /// Sends messages, and waits until `ends` of them have come to their end without an error.
    fn talk(&mut self, messages: &[Vec<u8>], mut ends: usize) -> Outcome {
        self.send(messages)?;
        while ends > 0 {
            let length = self.receive()?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                match i32::try_from(word(rest, 4)? & 0xffff)? {
                    libc::NLMSG_ERROR if word(rest, 16)? != 0 => {
                        return Err(io::Error::from_raw_os_error(-word(rest, 16)?.cast_signed()).into());
                    }
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => ends -= 1,
                    _ => {}
                }
                let length = usize::try_from(word(rest, 0)?)?.next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn send(&self, messages: &[Vec<u8>]) -> Outcome {
        let bytes = messages.concat();
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if usize::try_from(sent) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error().into()) }
    }

    fn receive(&mut self) -> Outcome<usize> {
        // SAFETY: the buffer is valid for its length.
        let length = unsafe {
            libc::recv(self.socket.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0)
        };
        usize::try_from(length).map_err(|_| io::Error::last_os_error().into())
    }
}

/// The bytes of a message behind its header.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// `struct ifinfomsg`.
    fn link(index: u32, up: bool) -> Self {
        let up = if up { libc::IFF_UP.cast_unsigned() } else { 0 };
        Self([[0; 4], index.to_ne_bytes(), up.to_ne_bytes(), up.to_ne_bytes()].concat())
    }

    /// `struct ifaddrmsg`, of IPv4.
    fn address(index: u32, prefix_len: u8) -> Self {
        Self([[2, prefix_len, 0, 0], index.to_ne_bytes()].concat())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(self, kind: u16, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len() + 16).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.0);
        bytes
    }
}

fn word(bytes: &[u8], at: usize) -> Outcome<u32> {
    let four = bytes.get(at..at + 4).ok_or("a short answer")?;
    Ok(u32::from_ne_bytes(four.try_into()?))
}
