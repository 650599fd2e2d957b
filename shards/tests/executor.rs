//! The executor carries a drive loop of our own beside glommio's tasks: neither starves the other.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ccbt_shards::executor::{Sleeper, spawn};
use rustix::event::{EventfdFlags, eventfd};

/// A busy loop that only yields when its slice is over lets timers of other tasks fire.
#[test]
fn timers_fire_beside_a_busy_loop() {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = spawn("test-shard", Some(0), move || async move {
        let ticks = Rc::new(Cell::new(0));
        let counter = ticks.clone();
        glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(Duration::from_millis(2)).await;
                counter.set(counter.get() + 1);
            }
        })
        .detach();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let sleeper = Sleeper::new(fd.as_fd()).unwrap();
        let start = Instant::now();
        let mut slice = start;
        // Bounded by ticks and by a generous time, so that a slow machine only takes longer.
        while ticks.get() < 5 && start.elapsed() < Duration::from_secs(20) {
            if slice.elapsed() > Duration::from_millis(1) {
                sleeper.give_way().await.unwrap();
                slice = Instant::now();
            }
            std::hint::spin_loop();
        }
        tell.send(ticks.get()).unwrap();
    })
    .unwrap();
    thread.join().unwrap();
    assert_eq!(told.recv().unwrap(), 5, "glommio's timer starved");
}

/// A write to a foreign eventfd, from another thread, wakes the sleeping executor.
#[test]
fn sleeper_wakes_on_a_foreign_eventfd() {
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let other = fd.try_clone().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = spawn("test-shard", None, move || async move {
        let sleeper = Sleeper::new(fd.as_fd()).unwrap();
        for round in 0..3 {
            tell.send(round).unwrap();
            sleeper.sleep().await.unwrap();
        }
        tell.send(100).unwrap();
    })
    .unwrap();
    for _ in 0..3 {
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        rustix::io::write(&other, &1u64.to_ne_bytes()).unwrap();
    }
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(100));
    thread.join().unwrap();
}
