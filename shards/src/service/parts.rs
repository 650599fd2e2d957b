//! The parts of the engine, one function each: what each is built with, and starting it.
//!
//! Owner and caller: [`super::Service::start`].

use super::*;

pub(super) fn shard_config(
    config: &ServiceConfig,
    index: usize,
    count: usize,
    listeners: Vec<OwnedFd>,
    port: u16,
) -> ShardConfig {
    let share = config.memory_bytes / count;
    ShardConfig {
        index,
        download_bytes: share / 4 * 3,
        upload_bytes: share / 4,
        listeners,
        listen_port: port,
        bind: config.bind.clone(),
        peer_id: config.peer_id,
        max_connections: config.max_connections.max(1),
        connect_timeout: CONNECT_TIMEOUT,
        handshake_timeout: HANDSHAKE_TIMEOUT,
        torrent: TorrentConfig {
            picker: PickerConfig::default(),
            window: config.window.clone(),
            choker: config.choker.clone(),
            listen_port: port,
            metadata: None,
            pex: true,
            // Set for each torrent.
            dht_port: 0,
            super_seeding: false,
        },
        count_overhead: config.count_overhead,
        sync: config.sync,
        zero_copy_send: config.zero_copy_send,
        transports: config.transports,
        encryption: config.encryption,
        proxy: for_peers(config),
    }
}

pub(super) fn start_webseeds(config: &ServiceConfig) -> Result<WebSeedThread, StartError> {
    let client = &config.trackers.client;
    let config = WebSeedConfig {
        allow_local: config.web_seed_local,
        bind: config.bind.clone(),
        extra_roots_pem: client.extra_roots_pem.clone(),
        user_agent: client.user_agent.clone(),
    };
    WebSeedThread::start(config).map_err(StartError::Resources)
}

/// Starts the discovery thread where it is wanted.
pub(super) fn start_discovery(
    config: &ServiceConfig,
    port: u16,
    strays: Option<Box<dyn Strays>>,
) -> Result<Option<DiscoveryThread>, StartError> {
    if config.discovery.dht.is_none() && !config.discovery.lsd {
        return Ok(None);
    }
    let listen = config.listen.iter().map(|door| door.at(port)).collect();
    let config = DiscoveryConfig { listen, bind: config.bind.clone(), ..config.discovery.clone() };
    DiscoveryThread::start(config, strays).map(Some).map_err(StartError::Resources)
}

/// Starts one shard and waits until it has its ring and memory.
pub(super) fn start_shard(
    config: ShardConfig,
    cpu: Option<usize>,
    links: Links,
    storage: Arc<StorageService>,
) -> Result<JoinHandle<()>, StartError> {
    let (told, built) = bounded(1);
    let name = format!("ccbt-shard-{}", config.index);
    let main = move || async move {
        match Shard::new(config, links, &storage) {
            Ok(shard) => {
                drop(storage);
                let _ = told.send(Ok(()));
                drive::run(shard).await;
            }
            Err(error) => drop(told.send(Err(error))),
        }
    };
    let thread = executor::spawn(&name, cpu, main).map_err(StartError::Resources)?;
    match built.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(StartError::Resources(error)),
        Err(_) => Err(StartError::Resources(std::io::Error::other("a shard died while starting"))),
    }
}

/// Whether the DHT's sockets are those of uTP, too: the discovery thread then takes in both.
pub(super) fn shares_port(config: &ServiceConfig, port: u16) -> bool {
    let dht = config.discovery.dht.as_ref();
    config.transports.utp && port != 0 && dht.is_some_and(|dht| dht.port.is_none_or(|dht| dht == port))
}

/// The UDP sockets of the listening port, if uTP is to be had.
pub(super) fn listen_utp(config: &ServiceConfig, port: u16) -> Vec<UtpDoor> {
    if !config.transports.utp || port == 0 {
        return Vec::new();
    }
    let doors: Vec<Door> = config.listen.iter().map(|door| door.at(port)).collect();
    utp_acceptor::bind(&doors).unwrap_or_else(|error| {
        tracing::warn!(port, %error, "cannot listen on the UDP port: no uTP connections are accepted");
        Vec::new()
    })
}

/// Listens on all addresses, with one port for all; without `accepts` only takes the port.
///
/// An interface that is not there is waited for, if the port is known.
pub(super) fn listen(doors: &[Door], accepts: bool) -> Result<(Vec<Arc<Listener>>, u16), StartError> {
    let mut listeners = Vec::new();
    let mut port = 0;
    for door in doors {
        let door = door.at(if door.addr.port() == 0 { port } else { door.addr.port() });
        match Listener::open(door.clone(), accepts) {
            Ok(listener) => {
                let local = socket2::SockRef::from(&listener.socket).local_addr();
                port = local.ok().and_then(|local| local.as_socket()).map_or(0, |local| local.port());
                listeners.push(Arc::new(Listener { door: door.at(port), ..listener }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && door.addr.port() != 0 => {
                port = door.addr.port();
            }
            Err(source) => return Err(StartError::Listen { door, source }),
        }
    }
    Ok((listeners, port))
}

pub(crate) fn bind_listener(door: &Door, accepts: bool) -> std::io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(door.addr), kind, Some(Protocol::TCP))?;
    // A port in TIME_WAIT can be used again; one that is listened on cannot.
    socket.set_reuse_address(true)?;
    door.bind(&socket)?;
    if accepts {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
