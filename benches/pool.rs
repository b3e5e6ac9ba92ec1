//! What address pools cost: operations a second, with few and with many entries, and what it takes to read and write
//! a pool whole, as under compare and swap. No root: `cargo bench --bench pool [ROUNDS]`.
//!
//! An operation is one `take`, `take_exactly` or `release`. "in order": all are taken, then all released. "scattered": every
//! second entry stays and the pool is in as many pieces as it has entries, while others are released and taken anywhere. No
//! randomness: places are multiples of a large prime, the same in each run. Time is the thread's own on a processor, since
//! nothing is waited for: what else the machine does is not counted.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(unsafe_code)]

use std::error::Error;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use docklet::net::Subnet;
use docklet::net::pool::{AddressPool, RangePool};
use serde::Serialize;
use serde::de::DeserializeOwned;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LIVE: [usize; 2] = [1_000, 65_536];
/// Coprime to any power of two: its multiples visit each place once.
const STRIDE: usize = 40_503;
/// What each of these does in a second at least.
const WANTED_PER_SECOND: u128 = 1_000_000;

/// One call of either pool.
trait Pool: Clone + PartialEq + Serialize + DeserializeOwned {
    type Entry: Copy;
    fn take(&mut self) -> docklet::Result<Self::Entry>;
    fn take_exactly(&mut self, entry: Self::Entry) -> docklet::Result<()>;
    fn release(&mut self, entry: Self::Entry) -> docklet::Result<()>;
}

impl Pool for AddressPool {
    type Entry = IpAddr;
    fn take(&mut self) -> docklet::Result<IpAddr> {
        self.take()
    }
    fn take_exactly(&mut self, ip: IpAddr) -> docklet::Result<()> {
        self.take_exactly(ip)
    }
    fn release(&mut self, ip: IpAddr) -> docklet::Result<()> {
        self.release(ip)
    }
}

impl Pool for RangePool {
    type Entry = Subnet;
    fn take(&mut self) -> docklet::Result<Subnet> {
        self.take(if self.parent().net().addr().is_ipv4() { 24 } else { 64 })
    }
    fn take_exactly(&mut self, range: Subnet) -> docklet::Result<()> {
        self.take_exactly(range)
    }
    fn release(&mut self, range: Subnet) -> docklet::Result<()> {
        self.release(range)
    }
}

fn main() -> Outcome {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(21);
    println!("{rounds} rounds; operations per second: median, least, most");
    for live in LIVE {
        let ipv4: Subnet = "10.0.0.0/8".parse()?;
        let ipv6: Subnet = "fd00::/48".parse()?;
        measure("addresses, IPv4", &AddressPool::new(ipv4, ipv4.first_host())?, live, rounds)?;
        measure("addresses, IPv6", &AddressPool::new(ipv6, ipv6.first_host())?, live, rounds)?;
        measure("ranges, /24 of 4.0.0.0/6", &RangePool::new("4.0.0.0/6".parse()?), live, rounds)?;
        measure("ranges, /64 of fd00::/40", &RangePool::new("fd00::/40".parse()?), live, rounds)?;
    }
    Ok(())
}

/// The operations a second of `work`, which does `count` of them.
fn rate(count: usize, work: impl FnOnce() -> docklet::Result<()>) -> Outcome<u128> {
    let started = processor_time()?;
    work()?;
    Ok(u128::try_from(count)? * 1_000_000_000 / (processor_time()? - started).as_nanos().max(1))
}

/// How long this thread has run.
fn processor_time() -> Outcome<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to write to.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

fn measure<P: Pool>(name: &str, fresh: &P, live: usize, rounds: usize) -> Outcome {
    println!("{name}, {live} taken");
    let (mut in_order, mut scattered, mut exactly) = (Vec::new(), Vec::new(), Vec::new());
    let mut pool = fresh.clone();
    for _ in 0..rounds {
        let mut entries = Vec::with_capacity(live);
        pool = fresh.clone();
        in_order.push(rate(2 * live, || {
            for _ in 0..live {
                entries.push(pool.take()?);
            }
            entries.drain(..).try_for_each(|entry| pool.release(entry))
        })?);

        // Twice as many, of which every second goes: no two of the others are neighbours.
        pool = fresh.clone();
        let all = (0..2 * live).map(|_| pool.take()).collect::<Result<Vec<_>, _>>()?;
        let (gone, mut kept): (Vec<_>, Vec<_>) = all.chunks_exact(2).map(|two| (two[0], two[1])).unzip();
        gone.iter().try_for_each(|entry| pool.release(*entry))?;
        let places: Vec<usize> = (0..live).map(|n| n * STRIDE % live).collect();
        exactly.push(rate(2 * live, || {
            places.iter().try_for_each(|at| pool.take_exactly(gone[*at]))?;
            places.iter().try_for_each(|at| pool.release(gone[*at]))
        })?);
        scattered.push(rate(2 * live, || {
            for at in &places {
                pool.release(kept[*at])?;
                kept[*at] = pool.take()?;
            }
            Ok(())
        })?);
    }
    let mut met = true;
    for (what, rates) in [
        ("in order, take and release", &mut in_order),
        ("scattered, take and release", &mut scattered),
        ("scattered, take_exactly and release", &mut exactly),
    ] {
        rates.sort_unstable();
        let (median, least, most) = (rates[rates.len() / 2], rates[0], rates[rates.len() - 1]);
        met &= median >= WANTED_PER_SECOND;
        println!("  {what:<36} {median:>10} {least:>10} {most:>10}");
    }
    whole(&pool)?;
    if !met {
        println!("  NOT MET: {WANTED_PER_SECOND} operations a second of each kind");
    }
    Ok(())
}

/// Reads, clones and writes a pool in pieces.
fn whole<P: Pool>(pool: &P) -> Outcome {
    let started = processor_time()?;
    let json = serde_json::to_string(pool)?;
    let written = processor_time()? - started;
    let started = processor_time()?;
    let read: P = serde_json::from_str(&json)?;
    let parsed = processor_time()? - started;
    let started = processor_time()?;
    black_box(pool.clone());
    let cloned = processor_time()? - started;
    assert!(read == *pool, "what is read is what was written");
    println!(
        "  {} bytes of JSON: written in {written:.1?}, read in {parsed:.1?}; cloned in {cloned:.1?}",
        json.len()
    );
    Ok(())
}
