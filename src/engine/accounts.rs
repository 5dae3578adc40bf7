//! What peers owe each other for blocks: decided here, signed and kept by the shell.
//!
//! The buyer counts the verified blocks that it agreed to pay for, and says its debt in vouchers;
//! the seller counts what it sent, and stops at its credit limit until a voucher comes. A voucher
//! is cumulative and signed by the debtor, so it is the truth for both: whoever lost count in a
//! crash takes it up from the voucher that the other side shows when they meet again.

use super::{ConnId, Engine, Output, PurseId, peers::Request};
use barrow_wire::{Message, Multihash, PeerId, Voucher, limits::BLOCK_BYTES_MAX};
use std::collections::BTreeMap;

/// Parts of a unit in which debts are counted: prices are for a MiB, blocks are bytes.
const PARTS: u128 = 1 << 20;
/// Accounts at most; beyond them nobody new buys on credit.
const ACCOUNTS_MAX: usize = 10_000;
/// One part in so many of what a peer has paid may be lost on the way: blocks that were sent when
/// the connection broke or the wish was taken back, which the peer never verified. Once, as much
/// as the credit may be, so that a first misfortune does not end the trade.
const LOST_PARTS: u128 = 8;

/// What we and one peer owe each other. Debts are in price times bytes, totals of vouchers in
/// whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    /// What its verified blocks cost us.
    pub bought: u128,
    /// Sequence and total of the last voucher that we gave it.
    pub given: Option<(u64, u64)>,
    /// What the blocks that we sent cost it, but for those that were lost on the way.
    pub sold: u128,
    /// The last voucher that it gave us.
    pub received: Option<Voucher>,
    /// What was taken off `sold` as lost.
    pub lost: u128,
}

impl Account {
    /// What we owe by vouchers, in units.
    pub fn paid_by_us(&self) -> u64 {
        self.given.map_or(0, |(_, total)| total)
    }

    /// What the peer owes by vouchers, in units.
    pub fn paid_to_us(&self) -> u64 {
        self.received.as_ref().map_or(0, |voucher| voucher.total)
    }

    /// What we owe beyond our vouchers, in price times bytes.
    pub fn owed_by_us(&self) -> u128 {
        self.bought.saturating_sub(u128::from(self.paid_by_us()) * PARTS)
    }

    /// What the peer owes beyond its vouchers, in price times bytes.
    pub fn owed_to_us(&self) -> u128 {
        self.sold.saturating_sub(u128::from(self.paid_to_us()) * PARTS)
    }

    /// What more of its debt may be taken for lost on the way, beside `once`.
    fn losable(&self, once: u128) -> u128 {
        (u128::from(self.paid_to_us()) * PARTS / LOST_PARTS + once).saturating_sub(self.lost)
    }

    /// The voucher that is due, if the debt has grown by a unit.
    fn due(&mut self) -> Option<(u64, u64)> {
        let total = u64::try_from(self.bought / PARTS).unwrap_or(u64::MAX);
        if total <= self.paid_by_us() {
            return None;
        }
        let sequence = self.given.map_or(0, |(sequence, _)| sequence).checked_add(1)?;
        self.given = Some((sequence, total));
        self.given
    }
}

/// All accounts of money; who trades for nothing has none.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Accounts(BTreeMap<PeerId, Account>);

impl Accounts {
    pub(super) fn new(accounts: impl IntoIterator<Item = (PeerId, Account)>) -> Self {
        Self(accounts.into_iter().collect())
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Account> {
        self.0.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Account)> {
        self.0.iter()
    }

    fn open(&mut self, peer: PeerId) -> Option<&mut Account> {
        if self.0.len() >= ACCOUNTS_MAX && !self.0.contains_key(&peer) {
            return None;
        }
        Some(self.0.entry(peer).or_default())
    }
}

impl Engine {
    /// Both show the last vouchers they know of, so that whoever lost count finds it again.
    pub(super) fn show_vouchers(&mut self, conn: ConnId, id: PeerId) {
        let Some(account) = self.accounts.get(&id) else { return };
        if let Some((sequence, total)) = account.given {
            self.outputs.push_back(Output::Pay { conn, payee: id, sequence, total });
        }
        if let Some(voucher) = account.received.clone() {
            self.send(conn, Message::Payment { voucher });
        }
    }

    /// A verified block is paid for out of what was set aside for it; one whose wish was taken
    /// back too late, out of what is left.
    pub(super) fn pay_for(
        &mut self,
        conn: ConnId,
        hash: &Multihash,
        request: Option<&Request>,
        len: u32,
    ) {
        let Some(price) = self.peers.get(conn).and_then(|peer| peer.price) else { return };
        let bytes = u64::from(len);
        let (purse, aside, cost) = match request.map(|request| (request, request.cost())) {
            Some((request, Some((purse, aside)))) => {
                (purse, aside, aside / u128::from(request.bytes.max(1)) * u128::from(bytes))
            }
            Some((_, None)) => return,
            None => match self.late_payer(conn, hash, price, bytes) {
                Some((purse, cost)) => (purse, 0, cost),
                None => return,
            },
        };
        self.purses.put_back(purse, aside);
        self.purses.take(purse, cost);
        if cost > 0 {
            self.buy(conn, cost);
        }
    }

    fn late_payer(
        &mut self,
        conn: ConnId,
        hash: &Multihash,
        price: u64,
        bytes: u64,
    ) -> Option<(PurseId, u128)> {
        let late = self.peers.get_mut(conn)?.take_late(hash);
        if let Some(want) = self.wants.get(hash) {
            return self.payer(want, price, bytes);
        }
        let (purse, price) = late?;
        let cost = price * u128::from(bytes);
        self.affords(purse, cost).then_some((purse, cost))
    }

    /// A verified block is paid for: its debt is noted, and a voucher sent where it is due.
    fn buy(&mut self, conn: ConnId, cost: u128) {
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return };
        let Some(account) = self.accounts.open(id) else { return };
        account.bought = account.bought.saturating_add(cost);
        if let Some((sequence, total)) = account.due() {
            self.outputs.push_back(Output::Pay { conn, payee: id, sequence, total });
        }
        self.keep_account(id);
    }

    /// A block was sent to a peer that said yes to our price.
    pub(super) fn sell(&mut self, conn: ConnId, bytes: u64) {
        let cost = self.price_of(bytes);
        if cost == 0 {
            return;
        }
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return };
        let Some(account) = self.accounts.open(id) else { return };
        account.sold = account.sold.saturating_add(cost);
        self.keep_account(id);
    }

    fn price_of(&self, bytes: u64) -> u128 {
        u128::from(self.config.price) * u128::from(bytes)
    }

    /// Whether a peer may be sent `bytes` more while `under_way` are on their way to it. One
    /// block always may, once nothing whole is owed: else small credits would end all trade.
    pub(super) fn has_credit(&self, conn: ConnId, under_way: u64, bytes: u64) -> bool {
        if self.config.price == 0 {
            return true;
        }
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return false };
        let none = Account::default();
        let account = match self.accounts.get(&id) {
            None if self.accounts.0.len() >= ACCOUNTS_MAX => return false,
            found => found.unwrap_or(&none),
        };
        let owed = account.owed_to_us() + self.price_of(under_way);
        let limit = u128::from(self.config.credit) * PARTS + account.losable(0);
        owed < PARTS || owed + self.price_of(bytes) <= limit
    }

    /// A connection is over, or its peer took all wishes back: what was sent and not paid may never
    /// have come, as far as the peer has paid for enough else to be believed.
    pub(super) fn write_off(&mut self, id: PeerId) {
        let once =
            (u128::from(self.config.credit) * PARTS).max(self.price_of(BLOCK_BYTES_MAX as u64));
        let Some(account) = self.accounts.0.get_mut(&id) else { return };
        let lost = account.owed_to_us().min(account.losable(once));
        if lost > 0 {
            account.sold -= lost;
            account.lost += lost;
            self.keep_account(id);
        }
    }

    pub(super) fn on_payment(&mut self, conn: ConnId, voucher: Voucher) {
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return };
        if voucher.payer == self.config.peer_id {
            return self.on_own_voucher(conn, id, &voucher);
        }
        let last = self.accounts.get(&id).and_then(|account| account.received.as_ref());
        // An older one may cross a newer one, and proves nothing: no reason to judge it.
        if voucher.payer == id && last.is_some_and(|last| !voucher.supersedes(last)) {
            return;
        }
        if let Err(error) = voucher.verify(&id, &self.config.peer_id) {
            return self.offend(conn, &error.to_string());
        }
        let Some(account) = self.accounts.open(id) else { return };
        // It says what was verified over there: more than we know of was lost in a crash here,
        // or was taken for lost.
        let total = u128::from(voucher.total) * PARTS;
        if total > account.sold {
            account.lost = account.lost.saturating_sub(total - account.sold);
            account.sold = total;
        }
        account.received = Some(voucher);
        self.keep_account(id);
        self.serve();
    }

    /// The peer shows a voucher of ours: newer than what we know of, it is what we signed before
    /// a crash.
    fn on_own_voucher(&mut self, conn: ConnId, id: PeerId, voucher: &Voucher) {
        let known = self.accounts.get(&id).and_then(|account| account.given).unwrap_or((0, 0));
        if voucher.payee == id && voucher.sequence <= known.0 && voucher.total <= known.1 {
            return;
        }
        if let Err(error) = voucher.verify(&self.config.peer_id, &id) {
            return self.offend(conn, &error.to_string());
        }
        let Some(account) = self.accounts.open(id) else { return };
        let total = voucher.total.max(known.1);
        account.given = Some((voucher.sequence.max(known.0), total));
        account.bought = account.bought.max(u128::from(total) * PARTS);
        self.keep_account(id);
    }

    fn keep_account(&mut self, peer: PeerId) {
        if let Some(account) = self.accounts.get(&peer) {
            self.outputs.push_back(Output::Keep { peer, account: Box::new(account.clone()) });
        }
    }

    /// Accounts with peers that owe or were owed anything.
    pub fn accounts(&self) -> impl Iterator<Item = (&PeerId, &Account)> {
        self.accounts.iter()
    }
}
