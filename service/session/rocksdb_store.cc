#include "service/session/rocksdb_store.h"

#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/session/fault_point.h"

namespace attnd {
namespace {

using rocksdb::Slice;

// States from this size on are blobs, whose bytes compactions do not copy.
constexpr uint64_t kBlobSize = 4096;
constexpr int kOpenFiles = 512;
// Sessions whose heads are kept in memory.
constexpr size_t kHeads = 100000;

std::string BigEndian(uint64_t value) {
  std::string bytes(8, '\0');
  for (size_t i = 8; i-- > 0; value >>= 8) bytes[i] = static_cast<char>(value & 0xff);
  return bytes;
}

uint64_t Number(absl::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

std::string HeadKey(absl::string_view session) { return absl::StrCat("e", session); }
std::string ExpiryKey(uint64_t seconds, absl::string_view session) {
  return absl::StrCat("x", BigEndian(seconds), session);
}
// Ids hold no NUL: one session's keys are never among another's.
std::string LogPrefix(absl::string_view session) {
  return absl::StrCat("l", session, absl::string_view("\0", 1));
}
std::string StatePrefix(absl::string_view session) {
  return absl::StrCat("s", session, absl::string_view("\0", 1));
}
std::string BytesPrefix(absl::string_view session) {
  return absl::StrCat("d", session, absl::string_view("\0", 1));
}

Slice ToSlice(absl::string_view bytes) { return {bytes.data(), bytes.size()}; }
absl::string_view ToView(const Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  // Without the paths that the library's messages hold.
  if (status.IsCorruption())
    return absl::DataLossError(absl::StrCat(what, ": the store is damaged"));
  if (status.IsNoSpace()) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": the store's disk is full"));
  }
  return absl::UnavailableError(absl::StrCat(what, ": the store cannot be reached"));
}

absl::Status NoSession(absl::string_view session) {
  return absl::NotFoundError(absl::StrCat("session ", session, ": not in the store"));
}

rocksdb::ReadOptions Checked() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RocksDbStore>> RocksDbStore::Open(const RocksDbOptions& options) {
  rocksdb::DBOptions db_options;
  db_options.create_if_missing = true;
  db_options.create_missing_column_families = true;
  db_options.paranoid_checks = true;
  db_options.max_background_jobs = 2;
  // Many states are many files.
  db_options.max_open_files = kOpenFiles;
  db_options.info_log_level = rocksdb::ERROR_LEVEL;
  db_options.keep_log_file_num = 2;
  // A record that a crash cut at the log's end is no damage; a damaged one in its middle is.
  db_options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  rocksdb::ColumnFamilyOptions plain;
  plain.write_buffer_size = 16 << 20;
  rocksdb::ColumnFamilyOptions blobs = plain;
  blobs.enable_blob_files = true;
  blobs.min_blob_size = kBlobSize;
  blobs.enable_blob_garbage_collection = true;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(
      db_options, options.folder,
      {{rocksdb::kDefaultColumnFamilyName, plain}, {"log", plain}, {"states", blobs}}, &handles,
      &db);
  if (status.IsIOError() && absl::StrContains(status.ToString(), "lock")) {
    return absl::FailedPreconditionError("state directory: another process uses it");
  }
  if (!status.ok()) return FromRocks(status, "state directory");
  std::unique_ptr<RocksDbStore> store(new RocksDbStore(options));
  store->db_.reset(db);
  store->db_->DestroyColumnFamilyHandle(handles[0]);
  store->log_ = handles[1];
  store->states_ = handles[2];
  if (absl::Status s = store->ReadCount(); !s.ok()) return s;
  FaultPoint("rocksdb.opened");
  return store;
}

absl::Status RocksDbStore::ReadCount() {
  absl::MutexLock lock(&mu_);
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked()));
  const std::string prefix = HeadKey("");
  for (at->Seek(prefix); at->Valid() && at->key().starts_with(prefix); at->Next()) ++sessions_;
  return FromRocks(at->status(), "state directory");
}

RocksDbStore::RocksDbStore(RocksDbOptions options) : options_(std::move(options)) {}

RocksDbStore::~RocksDbStore() {
  db_->DestroyColumnFamilyHandle(log_);
  db_->DestroyColumnFamilyHandle(states_);
  db_->Close();
}

absl::StatusOr<RocksDbStore::Head> RocksDbStore::ReadHead(absl::string_view session) {
  const auto known = heads_.find(session);
  if (known != heads_.end()) return known->second;
  std::string value;
  const rocksdb::Status status = db_->Get(Checked(), HeadKey(session), &value);
  if (status.IsNotFound()) return NoSession(session);
  if (!status.ok()) return FromRocks(status, absl::StrCat("session ", session));
  // The shorter ones were written before sessions had an expiry, or trimmed logs, here.
  if (value.size() % 8 != 0 || value.size() < 16 || value.size() > 32) {
    return absl::DataLossError(absl::StrCat("session ", session, ": the store is damaged"));
  }
  const absl::string_view bytes = value;
  const auto number = [&](size_t i) {
    return Number(bytes.substr(std::min(8 * i, bytes.size()), 8));
  };
  const Head head{number(0), number(1), number(2), number(3)};
  if (heads_.size() >= kHeads) heads_.clear();
  heads_.emplace(session, head);
  return head;
}

std::string RocksDbStore::Bytes(const Head& head) {
  return BigEndian(head.epoch) + BigEndian(head.records) + BigEndian(head.expiry) +
         BigEndian(head.first);
}

absl::Status RocksDbStore::CheckEpoch(absl::string_view session, uint64_t epoch,
                                      const Head& head) const {
  if (epoch >= head.epoch) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("session ", session, ": epoch ", epoch, " is over, it is ", head.epoch, " now"));
}

// States are caches: they leave the last tenth to logs.
absl::Status RocksDbStore::CheckRoom(bool for_state) {
  if (options_.max_bytes == 0) return absl::OkStatus();
  const Usage now = usage();
  const uint64_t bytes = now.log_bytes + now.state_file_bytes;
  const int64_t most = options_.max_bytes - (for_state ? options_.max_bytes / 10 : 0);
  if (bytes <= static_cast<uint64_t>(most)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the store holds ", bytes, " bytes, at most ", options_.max_bytes,
                   " are allowed", for_state ? ", the last tenth of them to logs alone" : ""));
}

absl::Status RocksDbStore::Write(rocksdb::WriteBatch& batch, Durability durability) {
  rocksdb::WriteOptions options;
  options.sync = durability == Durability::kSync;
  return FromRocks(db_->Write(options, &batch), "write");
}

absl::StatusOr<uint64_t> RocksDbStore::Acquire(absl::string_view session) {
  absl::MutexLock lock(&mu_);
  absl::StatusOr<Head> head = ReadHead(session);
  if (!head.ok() && !absl::IsNotFound(head.status())) return head.status();
  Head next = head.ok() ? *head : Head{};
  ++next.epoch;
  rocksdb::WriteBatch batch;
  batch.Put(HeadKey(session), Bytes(next));
  FaultPoint("rocksdb.acquire.before");
  // The end of the machine, which may take the epoch back, ends every owner too: one process has
  // the directory.
  if (absl::Status s = Write(batch, Durability::kAsync); !s.ok()) return s;
  FaultPoint("rocksdb.acquire.after");
  if (!head.ok()) ++sessions_;
  heads_[std::string(session)] = next;
  return next.epoch;
}

absl::Status RocksDbStore::Append(absl::string_view session, uint64_t epoch, const Record& record,
                                  Durability durability) {
  const Entry entry{std::string(session), epoch, record};
  return AppendAll({&entry, 1}, durability);
}

absl::Status RocksDbStore::AppendAll(absl::Span<const Entry> entries, Durability durability) {
  if (absl::Status s = CheckRoom(/*for_state=*/false); !s.ok()) return s;
  absl::MutexLock lock(&mu_);
  absl::flat_hash_map<std::string, Head> changed;
  absl::flat_hash_map<std::string, std::string> added;
  rocksdb::WriteBatch batch;
  for (const Entry& entry : entries) {
    const std::string& session = entry.session;
    if (!changed.contains(session)) {
      absl::StatusOr<Head> head = ReadHead(session);
      if (!head.ok()) return head.status();
      changed[session] = *head;
    }
    Head& head = changed[session];
    if (absl::Status s = CheckEpoch(session, entry.epoch, head); !s.ok()) return s;
    const Record& record = entry.record;
    if (record.sequence > head.records) {
      return absl::InvalidArgumentError(absl::StrCat(
          "session ", session, ": record ", record.sequence, " given, expected ", head.records));
    }
    const std::string key = LogPrefix(session) + BigEndian(record.sequence);
    if (record.sequence == head.records) {
      batch.Put(log_, key, record.bytes);
      added[key] = record.bytes;
      ++head.records;
      continue;
    }
    std::string there;
    if (record.sequence < head.first) {
      return absl::FailedPreconditionError(
          absl::StrCat("session ", session, ": record ", record.sequence, " is trimmed already"));
    }
    if (const auto own = added.find(key); own != added.end()) {
      there = own->second;
    } else if (absl::Status s = FromRocks(db_->Get(Checked(), log_, key, &there),
                                          absl::StrCat("session ", session));
               !s.ok()) {
      return s;
    }
    if (there != record.bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("session ", session, ": record ", record.sequence, " is another already"));
    }
  }
  for (const auto& [session, head] : changed) {
    batch.Put(HeadKey(session), Bytes(head));
  }
  FaultPoint("rocksdb.append.before");
  if (absl::Status s = Write(batch, durability); !s.ok()) return s;
  FaultPoint("rocksdb.append.after");
  for (const auto& [session, head] : changed) heads_[session] = head;
  return absl::OkStatus();
}

absl::Status RocksDbStore::TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                                   Durability durability) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Head> head = ReadHead(session);
  if (!head.ok()) return head.status();
  if (absl::Status s = CheckEpoch(session, epoch, *head); !s.ok()) return s;
  if (record.sequence < head->first || record.sequence >= head->records) {
    return absl::InvalidArgumentError(absl::StrCat("session ", session, ": record ",
                                                   record.sequence, " given, expected one of [",
                                                   head->first, ", ", head->records, ")"));
  }
  Head next = *head;
  next.first = record.sequence;
  const std::string prefix = LogPrefix(session);
  const std::string key = prefix + BigEndian(record.sequence);
  rocksdb::WriteBatch batch;
  batch.DeleteRange(log_, prefix + BigEndian(head->first), key);
  batch.Put(log_, key, record.bytes);
  batch.Put(HeadKey(session), Bytes(next));
  FaultPoint("rocksdb.trim.before");
  if (absl::Status s = Write(batch, durability); !s.ok()) return s;
  FaultPoint("rocksdb.trim.after");
  heads_[std::string(session)] = next;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SessionStore::Record>> RocksDbStore::ReadLog(absl::string_view session,
                                                                        uint64_t first,
                                                                        uint64_t most) {
  Head head;
  {
    absl::MutexLock lock(&mu_);
    const absl::StatusOr<Head> found = ReadHead(session);
    if (!found.ok()) return found.status();
    head = *found;
  }
  first = std::max(first, head.first);
  const std::string prefix = LogPrefix(session);
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked(), log_));
  std::vector<Record> records;
  for (at->Seek(prefix + BigEndian(first)); at->Valid() && at->key().starts_with(prefix);
       at->Next()) {
    const uint64_t sequence = Number(ToView(at->key()).substr(prefix.size()));
    if (sequence != first + records.size()) break;
    if (sequence == head.records) break;  // Written since the head was read.
    if (records.size() == most) break;
    records.push_back({sequence, at->value().ToString()});
  }
  if (absl::Status s = FromRocks(at->status(), absl::StrCat("session ", session)); !s.ok())
    return s;
  FaultPoint("rocksdb.read_log");
  if (records.size() < most && first + records.size() < head.records) {
    return absl::DataLossError(absl::StrCat("session ", session, ": record ",
                                            first + records.size(), " is missing in the store"));
  }
  return records;
}

absl::Status RocksDbStore::PutState(absl::string_view session, uint64_t epoch,
                                    const StateInfo& info,
                                    absl::Span<const absl::string_view> parts,
                                    Durability durability) {
  if (absl::Status s = CheckRoom(/*for_state=*/true); !s.ok()) return s;
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Head> head = ReadHead(session);
  if (!head.ok()) return head.status();
  if (absl::Status s = CheckEpoch(session, epoch, *head); !s.ok()) return s;
  uint64_t bytes = 0;
  std::vector<Slice> values;
  for (const absl::string_view part : parts) {
    bytes += part.size();
    values.push_back(ToSlice(part));
  }
  const std::string key = BytesPrefix(session) + BigEndian(info.position);
  const Slice key_slice(key);
  rocksdb::WriteBatch batch;
  batch.Put(states_, rocksdb::SliceParts(&key_slice, 1),
            rocksdb::SliceParts(values.data(), static_cast<int>(values.size())));
  batch.Put(states_, StatePrefix(session) + BigEndian(info.position),
            BigEndian(bytes) + info.label);
  FaultPoint("rocksdb.put_state.before");
  absl::Status status = Write(batch, durability);
  FaultPoint("rocksdb.put_state.after");
  return status;
}

absl::StatusOr<SessionStore::StateInfo> RocksDbStore::ReadInfo(absl::string_view session,
                                                               absl::string_view key,
                                                               absl::string_view value) {
  if (value.size() < 8) {
    return absl::DataLossError(absl::StrCat("session ", session, ": the store is damaged"));
  }
  return StateInfo{Number(key.substr(key.size() - 8)), Number(value.substr(0, 8)),
                   std::string(value.substr(8))};
}

absl::StatusOr<std::string> RocksDbStore::GetState(absl::string_view session, uint64_t position,
                                                   StateInfo* info) {
  const std::string prefix = StatePrefix(session);
  {
    const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked(), states_));
    at->SeekForPrev(prefix + BigEndian(position));
    if (absl::Status s = FromRocks(at->status(), absl::StrCat("session ", session)); !s.ok())
      return s;
    if (!at->Valid() || !at->key().starts_with(prefix)) {
      return absl::NotFoundError(absl::StrCat("session ", session, ": no state up to ", position));
    }
    absl::StatusOr<StateInfo> found = ReadInfo(session, ToView(at->key()), ToView(at->value()));
    if (!found.ok()) return found.status();
    *info = *std::move(found);
  }
  const std::string what =
      absl::StrCat("session ", session, ": the state at position ", info->position);
  std::string bytes;
  const rocksdb::Status status =
      db_->Get(Checked(), states_, BytesPrefix(session) + BigEndian(info->position), &bytes);
  if (status.IsNotFound() || (status.ok() && bytes.size() != info->bytes)) {
    return absl::DataLossError(absl::StrCat(what, ": the store is damaged"));
  }
  if (!status.ok()) return FromRocks(status, what);
  return bytes;
}

absl::StatusOr<std::vector<SessionStore::StateInfo>> RocksDbStore::ListStates(
    absl::string_view session) {
  const std::string prefix = StatePrefix(session);
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked(), states_));
  std::vector<StateInfo> infos;
  for (at->Seek(prefix); at->Valid() && at->key().starts_with(prefix); at->Next()) {
    absl::StatusOr<StateInfo> info = ReadInfo(session, ToView(at->key()), ToView(at->value()));
    if (!info.ok()) return info.status();
    infos.push_back(*std::move(info));
  }
  if (absl::Status s = FromRocks(at->status(), absl::StrCat("session ", session)); !s.ok())
    return s;
  return infos;
}

absl::Status RocksDbStore::DropState(absl::string_view session, uint64_t epoch, uint64_t position) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Head> head = ReadHead(session);
  if (!head.ok()) return head.status();
  if (absl::Status s = CheckEpoch(session, epoch, *head); !s.ok()) return s;
  rocksdb::WriteBatch batch;
  batch.Delete(states_, StatePrefix(session) + BigEndian(position));
  batch.Delete(states_, BytesPrefix(session) + BigEndian(position));
  return Write(batch, Durability::kAsync);
}

absl::Status RocksDbStore::SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Head> head = ReadHead(session);
  if (!head.ok()) return head.status();
  if (absl::Status s = CheckEpoch(session, epoch, *head); !s.ok()) return s;
  Head next = *head;
  next.expiry = seconds;
  rocksdb::WriteBatch batch;
  if (head->expiry > 0) batch.Delete(ExpiryKey(head->expiry, session));
  if (seconds > 0) batch.Put(ExpiryKey(seconds, session), "");
  batch.Put(HeadKey(session), Bytes(next));
  absl::Status status = Write(batch, Durability::kAsync);
  if (status.ok()) heads_[std::string(session)] = next;
  return status;
}

absl::StatusOr<std::vector<std::string>> RocksDbStore::ListExpired(uint64_t seconds, size_t limit) {
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked()));
  std::vector<std::string> ids;
  const std::string first = ExpiryKey(0, ""), end = ExpiryKey(seconds + 1, "");
  for (at->Seek(first); at->Valid() && ToView(at->key()) < end && ids.size() < limit; at->Next()) {
    ids.emplace_back(ToView(at->key()).substr(first.size()));
  }
  if (absl::Status s = FromRocks(at->status(), "list"); !s.ok()) return s;
  return ids;
}

absl::Status RocksDbStore::Delete(absl::string_view session, uint64_t epoch) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Head> head = ReadHead(session);
  if (absl::IsNotFound(head.status())) return absl::OkStatus();
  if (!head.ok()) return head.status();
  if (absl::Status s = CheckEpoch(session, epoch, *head); !s.ok()) return s;
  const auto end = [](std::string prefix) {
    prefix.back() = 1;  // After the NUL that ends the session's name.
    return prefix;
  };
  rocksdb::WriteBatch batch;
  batch.Delete(HeadKey(session));
  if (head->expiry > 0) batch.Delete(ExpiryKey(head->expiry, session));
  batch.DeleteRange(log_, LogPrefix(session), end(LogPrefix(session)));
  batch.DeleteRange(states_, StatePrefix(session), end(StatePrefix(session)));
  batch.DeleteRange(states_, BytesPrefix(session), end(BytesPrefix(session)));
  FaultPoint("rocksdb.delete.before");
  absl::Status status = Write(batch, Durability::kAsync);
  FaultPoint("rocksdb.delete.after");
  if (status.ok()) {
    heads_.erase(session);
    --sessions_;
  }
  return status;
}

absl::StatusOr<std::vector<std::string>> RocksDbStore::List(absl::string_view prefix,
                                                            absl::string_view after, size_t limit) {
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(Checked()));
  std::vector<std::string> ids;
  const std::string wanted = HeadKey(prefix);
  for (at->Seek(HeadKey(std::max(prefix, after)));
       at->Valid() && at->key().starts_with(wanted) && ids.size() < limit; at->Next()) {
    const absl::string_view id = ToView(at->key()).substr(1);
    if (id > after) ids.emplace_back(id);
  }
  if (absl::Status s = FromRocks(at->status(), "list"); !s.ok()) return s;
  return ids;
}

uint64_t RocksDbStore::CountSessions() {
  absl::MutexLock lock(&mu_);
  return sessions_;
}

SessionStore::Usage RocksDbStore::usage() {
  const auto property = [&](rocksdb::ColumnFamilyHandle* family, const std::string& name) {
    uint64_t value = 0;
    db_->GetIntProperty(family, name, &value);
    return value;
  };
  Usage usage = {};
  usage.sessions = CountSessions();
  usage.log_bytes = property(log_, rocksdb::DB::Properties::kTotalSstFilesSize) +
                    property(log_, rocksdb::DB::Properties::kCurSizeAllMemTables);
  usage.state_bytes = property(states_, rocksdb::DB::Properties::kLiveBlobFileSize) +
                      property(states_, rocksdb::DB::Properties::kCurSizeAllMemTables);
  usage.state_file_bytes = property(states_, rocksdb::DB::Properties::kTotalBlobFileSize) +
                           property(states_, rocksdb::DB::Properties::kTotalSstFilesSize);
  return usage;
}

absl::Status RocksDbStore::Flush() { return FromRocks(db_->FlushWAL(/*sync=*/true), "flush"); }

}  // namespace attnd
