//! What an operation carries through the kernel: its kind, and the slab entry with its generation.

/// Generations keep 24 bits on the way through the kernel; an entry would have to be reused 2^24 times while one
/// operation is in flight to be taken for another.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Accept = 1,
    Connect,
    Recv,
    Send,
    Bell,
    Timeout,
    Cancel,
    Watch,
    /// As `Send`, without a copy. The index is that of a hold, which outlives the socket; the generation is 0.
    SendZc,
    /// A poll of a uTP connection's UDP socket. Index and generation are the connection's, which it may outlive.
    Utp,
}

/// Unpacked user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserData {
    pub op: Op,
    pub generation: u32,
    pub index: u32,
}

impl UserData {
    pub fn new(op: Op, generation: u32, index: u32) -> Self {
        Self { op, generation: generation & GENERATION_MASK, index }
    }

    pub fn pack(self) -> u64 {
        u64::from(self.op as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn unpack(data: u64) -> Self {
        let op = match data >> 56 {
            1 => Op::Accept,
            2 => Op::Connect,
            3 => Op::Recv,
            4 => Op::Send,
            5 => Op::Bell,
            6 => Op::Timeout,
            7 => Op::Cancel,
            8 => Op::Watch,
            9 => Op::SendZc,
            10 => Op::Utp,
            other => unreachable!("user data of kind {other}"),
        };
        Self { op, generation: (data >> 32) as u32 & GENERATION_MASK, index: data as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        use Op::{Accept, Bell, Cancel, Connect, Recv, Send, SendZc, Timeout, Utp, Watch};
        for op in [Accept, Connect, Recv, Send, Bell, Timeout, Cancel, Watch, SendZc, Utp] {
            let data = UserData::new(op, 0xabcd_ef01, 0xffff_fffe);
            assert_eq!(UserData::unpack(data.pack()), data);
        }
    }
}
