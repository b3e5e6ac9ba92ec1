//! Lines on standard output (`man 2 write`, `EPIPE`): when nobody reads on, as after `| head -1`, the program goes on to its end,
//! without a word, and removes what it has made. `println!` would panic.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

/// As `println!`.
macro_rules! say {
    ($($words:tt)*) => { crate::say::line(format_args!($($words)*)) };
}

pub(crate) fn line(words: Arguments<'_>) {
    match writeln!(stdout(), "{words}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.expect("standard output"),
    }
}
