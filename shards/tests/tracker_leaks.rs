//! What announces leave behind when they end badly: nothing. One test per process, as it counts descriptors.

use std::net::{TcpListener, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use ccbt_protocol::ids::{InfoHash, PeerId};
use ccbt_protocol::tracker::udp::RetryPlan;
use ccbt_protocol::tracker::{AnnounceRequest, Event};
use ccbt_shards::control::{TrackerClient, TrackerClientConfig};

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash([1; 20]),
        peer_id: PeerId([2; 20]),
        port: 1,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: Event::Started,
        numwant: None,
        key: 0,
        tracker_id: None,
        ip: None,
        other_ip: None,
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Time-outs and refusals give their sockets back. An executor may end with announces and look-ups under way;
/// glommio keeps those tasks, and a socket each, until the process ends.
#[test]
fn failed_announces_leave_no_descriptors() {
    // Both take what comes, and never answer.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = [
        format!("http://{}/", web.local_addr().unwrap()),
        format!("https://{}/", web.local_addr().unwrap()),
        format!("udp://{}/", udp.local_addr().unwrap()),
        format!("http://{nobody}/"),
        format!("udp://{nobody}/"),
    ];
    let main = move || async move {
        let client = Rc::new(TrackerClient::new(TrackerClientConfig {
            http_timeout: Duration::from_millis(30),
            udp_retry: RetryPlan { base: Duration::from_millis(10), tries_max: 2 },
            ..TrackerClientConfig::default()
        }));
        for url in &urls {
            client.announce(url, &request()).await.unwrap_err();
        }
        let before = descriptors();
        for _ in 0..20 {
            for url in &urls {
                client.announce(url, &request()).await.unwrap_err();
            }
        }
        // Cancelled operations hold their sockets until the ring has heard of it.
        for _ in 0..1000 {
            if descriptors() <= before {
                break;
            }
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
        assert!(descriptors() <= before, "{before} descriptors became {}", descriptors());
        let patient = Rc::new(TrackerClient::new(TrackerClientConfig::default()));
        for url in urls.iter().cloned().chain(["http://no-such-name.invalid/".to_owned()]) {
            let client = patient.clone();
            glommio::spawn_local(async move { client.announce(&url, &request()).await }).detach();
        }
        glommio::timer::sleep(Duration::from_millis(5)).await;
    };
    ccbt_shards::executor::spawn("test-leaks", None, main).unwrap().join().unwrap();
}
