//! Many torrents at one node.

use super::*;

/// What ten thousand torrents take in all, from a sample of them: every look-up is announced, and all come to their turn
/// within half an hour, after which others forget them. Nodes come and go, and one datagram in twenty is lost.
#[test]
fn ten_thousand_torrents_are_announced_in_time() {
    const SAMPLE: usize = 800;
    let mut net = grown(11, 200, false);
    let node = net.some_honest();
    let (begin, mut begun, mut tick) = (net.now, 0, 0);
    let asked = |net: &Net| net.nodes[node].dht.as_ref().expect("honest").stats().queries_out;
    let before = asked(&net);
    let done =
        |net: &Net| net.nodes[node].events.iter().filter(|event| matches!(event, Event::Done { .. })).count();
    net.nodes[node].dht.as_mut().expect("honest").set_torrents(begin, 10_000);
    while done(&net) < SAMPLE {
        let now = net.now;
        while begun < SAMPLE {
            let hash = InfoHash(net.rng.random());
            let announce = Some(Announce { port: Some(1), seed: false });
            let dht = net.nodes[node].dht.as_mut().expect("honest");
            if dht.start(now, Goal::Peers { info_hash: hash, announce }, &mut net.rng).is_none() {
                break;
            }
            begun += 1;
        }
        net.after(node);
        net.run(Duration::from_millis(250));
        tick += 1;
        if tick % 40 == 0 {
            let gone = net.some_honest();
            net.nodes[gone].alive &= gone == node;
            net.join([true, false], false);
        }
        assert!(net.now - begin < Duration::from_secs(1800), "{} of {SAMPLE}", done(&net));
    }
    let stored =
        net.nodes[node].events.iter().filter(|event| matches!(event, Event::Done { stored: 4.., .. }));
    let stored = stored.count();
    let seconds = (net.now - begin).as_secs_f64();
    let (all, queries) = (seconds * 10_000.0 / SAMPLE as f64, (asked(&net) - before) as f64);
    println!(
        "{seconds:.0} s, {:.0} queries each, {:.0} a second; {all:.0} s for 10,000; {stored} stored",
        queries / SAMPLE as f64,
        queries / seconds
    );
    assert!(all < 1500.0, "{all:.0} s for ten thousand");
    assert!(stored * 100 >= SAMPLE * 90, "{stored} of {SAMPLE} are stored");
}
