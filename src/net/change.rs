//! One message to be sent (`man 7 rtnetlink`).

use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// One change, or question, to be sent.
#[derive(Debug)]
pub(super) struct Change {
    /// The object, for errors.
    pub(super) target: String,
    pub(super) message: RouteNetlinkMessage,
    pub(super) mode: Mode,
    /// An error number that means that all is as it should be.
    pub(super) fine: Option<i32>,
}

/// What may be there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing: the object is made.
    Create,
    /// Anything: it is made, or replaced.
    Replace,
    /// Anything: it is made beside it, unless it is there.
    Append,
    /// The object: it is asked for, changed or deleted.
    Existing,
}

impl Change {
    /// About an object that exists.
    pub(super) fn new(target: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { target: target.into(), message, mode: Mode::Existing, fine: None }
    }
}

impl Mode {
    pub(super) fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
            Self::Existing => 0,
        }
    }
}

/// What the kernel calls `message`, for errors: `linux/rtnetlink.h`.
pub(super) fn call(message: &RouteNetlinkMessage) -> &'static str {
    match message {
        RouteNetlinkMessage::NewLink(_) => "RTM_NEWLINK",
        RouteNetlinkMessage::SetLink(_) => "RTM_SETLINK",
        RouteNetlinkMessage::DelLink(_) => "RTM_DELLINK",
        RouteNetlinkMessage::GetLink(_) => "RTM_GETLINK",
        RouteNetlinkMessage::NewAddress(_) => "RTM_NEWADDR",
        RouteNetlinkMessage::DelAddress(_) => "RTM_DELADDR",
        RouteNetlinkMessage::GetAddress(_) => "RTM_GETADDR",
        RouteNetlinkMessage::NewRoute(_) => "RTM_NEWROUTE",
        RouteNetlinkMessage::DelRoute(_) => "RTM_DELROUTE",
        RouteNetlinkMessage::GetRoute(_) => "RTM_GETROUTE",
        RouteNetlinkMessage::NewNeighbour(_) => "RTM_NEWNEIGH",
        RouteNetlinkMessage::DelNeighbour(_) => "RTM_DELNEIGH",
        RouteNetlinkMessage::GetNeighbour(_) => "RTM_GETNEIGH",
        RouteNetlinkMessage::NewQueueDiscipline(_) => "RTM_NEWQDISC",
        RouteNetlinkMessage::DelQueueDiscipline(_) => "RTM_DELQDISC",
        RouteNetlinkMessage::GetQueueDiscipline(_) => "RTM_GETQDISC",
        RouteNetlinkMessage::NewTrafficFilter(_) => "RTM_NEWTFILTER",
        RouteNetlinkMessage::DelTrafficFilter(_) => "RTM_DELTFILTER",
        RouteNetlinkMessage::GetTrafficFilter(_) => "RTM_GETTFILTER",
        RouteNetlinkMessage::GetNsId(_) => "RTM_GETNSID",
        _ => "sendto",
    }
}
