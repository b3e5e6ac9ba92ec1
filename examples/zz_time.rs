#![allow(clippy::all, clippy::print_stdout, clippy::cast_precision_loss, unused_mut, missing_docs)]
use std::{path::*, process::Command, time::*};
use docklet::{cgroup::*, lxc::*, name::*};
fn med(v: &mut Vec<f64>) -> f64 { v.sort_by(|a,b| a.total_cmp(b)); v[v.len()/2] }
fn main() -> docklet::Result<()> {
    let n: usize = std::env::args().nth(1).map_or(15, |s| s.parse().unwrap());
    let bare = std::env::args().nth(2).is_none();
    let root = Path::new("/tmp/lt/root");
    let lxcpath = Path::new("/tmp/lt/ctr");
    std::fs::create_dir_all(lxcpath).unwrap();
    let target = LxcTarget::detect(&Hierarchies::detect()?)?;
    let id = ObjectId::new(format!("{:016x}", std::process::id()))?;
    let c = Container::new(lxcpath, &id, &target, format!("docklet/zztime/{id}"))?;
    let mut cfg = LxcConfig::new(&ContainerName::new("inside")?, root)?;
    cfg.limits(&CgroupLimits{ memory_max_bytes: Some(Limit::At(128<<20)), pids_max: Some(Limit::At(64)), cpu: Some(CpuQuota::cores(0.5)?), ..Default::default()});
    if let Some(p) = std::env::var_os("NETNS") { cfg.join_network(p)?; }
    // bare config
    let mut text = cfg.render(&target)?;
    text.push_str("lxc.cgroup.dir.monitor = docklet/zzbare/m\nlxc.cgroup.dir.container = docklet/zzbare/p\nlxc.cgroup.dir.container.inner = inner\n");
    std::fs::write("/tmp/lt/bare.cfg", &text).unwrap();
    let (mut a, mut b, mut d, mut e) = (vec![], vec![], vec![], vec![]);
    for _ in 0..n {
        let t = Instant::now(); c.start(&cfg)?; a.push(t.elapsed().as_secs_f64()*1e3);
        std::thread::sleep(Duration::from_millis(30));
        let t = Instant::now(); c.kill()?; b.push(t.elapsed().as_secs_f64()*1e3);
        std::thread::sleep(Duration::from_millis(30));
        if bare {
        let t = Instant::now();
        assert!(Command::new("lxc-start").args(["-d","-n","barex","-P","/tmp/lt/ctr","-f","/tmp/lt/bare.cfg","-o","/tmp/lt/bare.log","-l","WARN"]).status().unwrap().success());
        d.push(t.elapsed().as_secs_f64()*1e3);
        std::thread::sleep(Duration::from_millis(30));
        let t = Instant::now();
        assert!(Command::new("lxc-stop").args(["-k","-n","barex","-P","/tmp/lt/ctr"]).status().unwrap().success());
        e.push(t.elapsed().as_secs_f64()*1e3);
        std::thread::sleep(Duration::from_millis(60));
        }
    }
    println!("docklet start {:.1} (min {:.1})", med(&mut a), a[0]);
    println!("docklet kill  {:.1} (min {:.1})", med(&mut b), b[0]);
    if bare { println!("bare start    {:.1} (min {:.1})", med(&mut d), d[0]);
    println!("bare stop -k  {:.1} (min {:.1})", med(&mut e), e[0]); }
    Ok(())
}
