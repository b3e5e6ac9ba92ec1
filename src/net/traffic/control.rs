//! The messages of traffic control (`man 8 tc`, `linux/pkt_sched.h`, `linux/pkt_cls.h`): token buckets, the classifier
//! `bpf`, and the redirection to another device.

use rtnetlink::packet_core::{DefaultNla, NlaBuffer, NlasIterator};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::program::{Instruction, PASS, RETURN};
use super::rate::Rate;
use crate::net::Mtu;
use crate::net::change::{Change, Mode};

/// Where what comes in is looked at: in the order of the filters' numbers, which are also their priorities.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const INGRESS_QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// `ETH_P_ALL`.
const EVERY_PROTOCOL: u16 = 3;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

/// A filter of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Filter {
    /// What checks the source.
    Guard = 1,
    /// What leads to the device with the limit.
    Redirect = 2,
}

/// What a token bucket does, as far as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Bucket {
    bytes_per_second: u64,
    queue_bytes: u32,
}

impl Bucket {
    pub(in crate::net) fn new(rate: Rate, mtu: Mtu) -> Self {
        Self { bytes_per_second: rate.bytes_per_second(), queue_bytes: rate.queue_bytes(mtu) }
    }
}

fn message(index: u32, handle: TcHandle, parent: TcHandle, kind: &str, options: Vec<TcOption>) -> TcMessage {
    let index = i32::try_from(index).unwrap_or_default();
    let header = TcHeader { index, handle, parent, ..TcHeader::default() };
    let mut attributes = vec![TcAttribute::Kind(kind.to_owned())];
    if !options.is_empty() {
        attributes.push(TcAttribute::Options(options));
    }
    TcMessage::from_parts(header, attributes)
}

/// Makes what comes in at the link `index` be looked at, if it is not yet.
pub(in crate::net) fn add_ingress(name: &str, index: u32) -> Change {
    let message = message(index, INGRESS_QDISC, TcHandle::INGRESS, "ingress", Vec::new());
    let target = format!("ingress of link `{name}`");
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    Change { mode: Mode::Create, fine: Some(libc::EEXIST), ..Change::new(target, message) }
}

/// The handle of a token bucket, made of what it does: one that does something else is another, for which the kernel
/// exchanges the first in one step. Changed in place, a queue whose first packet (up to 64 KiB, before it is cut up for
/// the wire) is larger than what may pass at once from now on would stand still for ever. The upper half is the kernel's
/// own, and its last one is that of what comes in.
fn bucket_handle(rate: Rate, mtu: Mtu) -> TcHandle {
    let settings = rate.bits_per_second() ^ u64::from(rate.burst_bytes(mtu)).rotate_left(32);
    let hash = settings.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49;
    TcHandle { major: u16::try_from(hash).unwrap_or_default() | 1, minor: 0 }
}

/// Gives the link `index` the token bucket for `rate`, in the place of any that it has: what waits there is lost.
pub(in crate::net) fn set_bucket(name: &str, index: u32, rate: Rate, mtu: Mtu) -> Change {
    let bytes = rate.bytes_per_second();
    let short_rate = u32::try_from(bytes).unwrap_or(u32::MAX);
    // struct tc_tbf_qopt: two tc_ratespec (the second is for peaks), then limit, buffer, mtu.
    let mut parameters = [0; 36];
    // TC_LINKLAYER_ETHERNET; the kernel looks for a table otherwise.
    parameters[1] = 1;
    parameters[8..12].copy_from_slice(&short_rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&rate.queue_bytes(mtu).to_ne_bytes());
    let mut options = vec![
        DefaultNla::new(TCA_TBF_PARMS, parameters.to_vec()),
        DefaultNla::new(TCA_TBF_BURST, rate.burst_bytes(mtu).to_ne_bytes().to_vec()),
    ];
    if short_rate == u32::MAX {
        options.push(DefaultNla::new(TCA_TBF_RATE64, bytes.to_ne_bytes().to_vec()));
    }
    let options = options.into_iter().map(TcOption::Other).collect();
    let message = message(index, bucket_handle(rate, mtu), TcHandle::ROOT, "tbf", options);
    let target = format!("rate of link `{name}`");
    Change { mode: Mode::Replace, ..Change::new(target, RouteNetlinkMessage::NewQueueDiscipline(message)) }
}

/// Takes the token bucket from the link `index`.
pub(in crate::net) fn remove_bucket(name: &str, index: u32) -> Change {
    let message = message(index, TcHandle::UNSPEC, TcHandle::ROOT, "tbf", Vec::new());
    let target = format!("rate of link `{name}`");
    let message = RouteNetlinkMessage::DelQueueDiscipline(message);
    Change { fine: Some(libc::ENOENT), ..Change::new(target, message) }
}

/// The link that has the token bucket that `message` tells of.
pub(in crate::net) fn bucket(message: &RouteNetlinkMessage) -> Option<(u32, Bucket)> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { return None };
    if message.header.parent != TcHandle::ROOT {
        return None;
    }
    let index = u32::try_from(message.header.index).ok()?;
    let nested = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => match &options[..] {
            [TcOption::Other(nla)] => Some(value(nla)),
            _ => None,
        },
        _ => None,
    })?;
    let (mut found, mut long_rate) = (None, None);
    for (kind, value) in attributes(&nested) {
        match kind {
            TCA_TBF_PARMS => {
                let rate = u64::from(u32::from_ne_bytes(value.get(8..12)?.try_into().ok()?));
                let queue_bytes = u32::from_ne_bytes(value.get(24..28)?.try_into().ok()?);
                found = Some(Bucket { bytes_per_second: rate, queue_bytes });
            }
            TCA_TBF_RATE64 => long_rate = value.try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    let found = found?;
    Some((index, Bucket { bytes_per_second: long_rate.unwrap_or(found.bytes_per_second), ..found }))
}

impl Filter {
    fn message(self, index: u32, options: Vec<TcOption>) -> TcMessage {
        let handle = TcHandle { major: 0, minor: self as u16 };
        let mut message = message(index, handle, INGRESS, "bpf", options);
        let every_protocol = EVERY_PROTOCOL.to_be();
        message.header.info = u32::from(self as u16) << 16 | u32::from(every_protocol);
        message
    }

    fn target(self, name: &str) -> String {
        match self {
            Self::Guard => format!("source guard of link `{name}`"),
            Self::Redirect => format!("rate of what comes from link `{name}`"),
        }
    }

    /// Asks for it. There is none if the kernel answers `ENOENT`, or `EINVAL`: nothing is looked at at all.
    pub(in crate::net) fn ask(self, name: &str, index: u32) -> Change {
        let message = RouteNetlinkMessage::GetTrafficFilter(self.message(index, Vec::new()));
        Change::new(self.target(name), message)
    }

    pub(in crate::net) fn remove(self, name: &str, index: u32) -> Change {
        let message = RouteNetlinkMessage::DelTrafficFilter(self.message(index, Vec::new()));
        Change { fine: Some(libc::ENOENT), ..Change::new(self.target(name), message) }
    }

    /// Sets it, or exchanges it in one step.
    fn set(self, name: &str, index: u32, program: &[Instruction], how: TcOption) -> Change {
        let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(
                TCA_BPF_OPS_LEN,
                length.to_ne_bytes().to_vec(),
            ))),
            TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS, bytes(program)))),
            how,
        ];
        let message = RouteNetlinkMessage::NewTrafficFilter(self.message(index, options));
        Change { mode: Mode::Replace, ..Change::new(self.target(name), message) }
    }
}

/// Checks what comes in at the link `index` with `program`.
pub(in crate::net) fn set_guard(name: &str, index: u32, program: &[Instruction]) -> Change {
    let verdicts = TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction));
    Filter::Guard.set(name, index, program, verdicts)
}

/// Leads what comes in at the link `index` through the device `to`, and back.
pub(in crate::net) fn set_redirect(name: &str, index: u32, to: u32) -> Change {
    let all = [Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: PASS }];
    // struct tc_mirred: index, capab, action (TC_ACT_STOLEN), refcnt, bindcnt, eaction (TCA_EGRESS_REDIR), ifindex.
    let parameters = [0, 0, 4, 0, 0, 1, to].map(u32::to_ne_bytes).concat();
    let mirred = [
        attribute(TCA_ACT_KIND, b"mirred\0"),
        attribute(TCA_ACT_OPTIONS, &attribute(TCA_MIRRED_PARMS, &parameters)),
    ];
    // The actions are numbered from 1.
    let actions = DefaultNla::new(TCA_BPF_ACT, attribute(1, &mirred.concat()));
    Filter::Redirect.set(name, index, &all, TcOption::Bpf(TcFilterBpfOption::Other(actions)))
}

fn options(message: &RouteNetlinkMessage) -> Vec<&TcFilterBpfOption> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return Vec::new() };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options
        .flatten()
        .filter_map(|option| match option {
            TcOption::Bpf(option) => Some(option),
            _ => None,
        })
        .collect()
}

/// The program of a guard that the kernel tells of, if its verdicts count.
pub(in crate::net) fn guard(message: &RouteNetlinkMessage) -> Option<Vec<u8>> {
    let options = options(message);
    let counts = options.iter().any(|option| {
        matches!(option, TcFilterBpfOption::Flags(flags) if flags.contains(TcBpfFlags::DirectAction))
    });
    options.into_iter().filter(|_| counts).find_map(|option| nested(option, TCA_BPF_OPS))
}

/// The device that a redirection that the kernel tells of leads to.
pub(in crate::net) fn redirect(message: &RouteNetlinkMessage) -> Option<u32> {
    let actions = options(message).into_iter().find_map(|option| nested(option, TCA_BPF_ACT))?;
    let first = part(&actions, 1)?;
    let parameters = part(&part(&first, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
    Some(u32::from_ne_bytes(parameters.get(24..28)?.try_into().ok()?))
}

fn nested(option: &TcFilterBpfOption, wanted: u16) -> Option<Vec<u8>> {
    match option {
        TcFilterBpfOption::Other(nla) if kind(nla) == wanted => Some(value(nla)),
        _ => None,
    }
}

fn part(bytes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    attributes(bytes).into_iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The attributes in `bytes`, without the mark of those that have others in them.
fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let all = NlasIterator::new(bytes).map_while(Result::ok);
    all.map(|nla: NlaBuffer<&[u8]>| (nla.kind(), nla.value().to_vec())).collect()
}

fn kind(nla: &DefaultNla) -> u16 {
    rtnetlink::packet_core::Nla::kind(nla) & 0x3fff
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; rtnetlink::packet_core::Nla::value_len(nla)];
    rtnetlink::packet_core::Nla::emit_value(nla, &mut bytes);
    bytes
}

/// An attribute as it goes over the socket, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A program as the kernel has it.
pub(in crate::net) fn bytes(program: &[Instruction]) -> Vec<u8> {
    let each = program.iter().flat_map(|instruction| {
        let [a, b] = instruction.code.to_ne_bytes();
        let [c, d, e, f] = instruction.operand.to_ne_bytes();
        [a, b, instruction.jump_true, instruction.jump_false, c, d, e, f]
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{Emitable, Parseable};

    use super::*;
    use crate::net::traffic::program::DROP;

    /// As the kernel would send it back.
    fn echo(message: &RouteNetlinkMessage) -> TcMessage {
        let (RouteNetlinkMessage::NewTrafficFilter(message)
        | RouteNetlinkMessage::NewQueueDiscipline(message)) = message
        else {
            panic!("{message:?}");
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        TcMessage::parse(&bytes[..]).unwrap()
    }

    #[test]
    fn what_is_set_is_read_back() {
        let program = [Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: DROP }];
        let set = echo(&set_guard("dk0", 7, &program).message);
        assert_eq!(set.header.info, 0x0001_0000 | u32::from(3_u16.to_be()));
        let set = RouteNetlinkMessage::NewTrafficFilter(set);
        assert_eq!(guard(&set).unwrap(), bytes(&program));
        assert_eq!(redirect(&set), None);

        let set = RouteNetlinkMessage::NewTrafficFilter(echo(&set_redirect("dk0", 7, 9).message));
        assert_eq!(redirect(&set), Some(9));
        assert_eq!(guard(&set), None, "its verdict does not count");

        let mtu = Mtu::new(1500).unwrap();
        for bits in [8_000, 10_000_000, 400_000_000_000] {
            let rate = Rate::new(bits).unwrap();
            let set = RouteNetlinkMessage::NewQueueDiscipline(echo(&set_bucket("dk0", 7, rate, mtu).message));
            assert_eq!(bucket(&set), Some((7, Bucket::new(rate, mtu))));
        }
    }
}
