// What the Redis store does at the server: one script is one atomic change. Each checks everything
// before its first write, since a script that fails half way is not taken back.
//
// KEYS[1] is the prefix of all keys; for session S:
//   <prefix>head:S    hash: epoch, first (number of the log's first record; absent: 0), records
//   (its
//                     end), log and state (bytes)
//   <prefix>log:S     list of sealed records
//   <prefix>infos:S   hash: position -> sealed description of its state
//   <prefix>states:S  hash: position -> state
// and of all: <prefix>index, a sorted set of sessions, <prefix>usage, a hash of the sums of bytes.
// The scripts answer {"OK", ...} or {what is wrong, session, ...}.
#ifndef ATTND_SERVICE_SESSION_REDIS_SCRIPTS_H_
#define ATTND_SERVICE_SESSION_REDIS_SCRIPTS_H_

namespace attnd::redis_scripts {

// Stands before each of the others. (They write 0 - x where x may be 0: -0 is no integer to Redis.)
inline constexpr char kCommon[] = R"lua(
local p = KEYS[1]
local function head(s) return p .. 'head:' .. s end
local function log(s) return p .. 'log:' .. s end
local function infos(s) return p .. 'infos:' .. s end
local function states(s) return p .. 'states:' .. s end
local function missing(s)
  if redis.call('EXISTS', log(s), infos(s), states(s)) > 0 then return {'DAMAGED', s} end
  return {'NOT_FOUND', s}
end
-- Where the log begins and ends; nil if it is not what the head says.
local function log_ends(s)
  local h = redis.call('HMGET', head(s), 'first', 'records')
  local first, last = tonumber(h[1] or 0), tonumber(h[2])
  if not first or not last or redis.call('LLEN', log(s)) ~= last - first then return nil end
  return first, last
end
local function full(quota, more)
  if quota == 0 or more <= 0 then return nil end
  local u = redis.call('HMGET', p .. 'usage', 'log', 'state')
  local used = (tonumber(u[1]) or 0) + (tonumber(u[2]) or 0)
  if used + more <= quota then return nil end
  return {'QUOTA', '', string.format('%.0f', used)}
end
)lua";

// ARGV: session. Epochs are microseconds of the server's clock, and larger than the last: a server
// that lost its latest writes does not give one out twice.
inline constexpr char kAcquire[] = R"lua(
local s = ARGV[1]
local text = redis.call('HGET', head(s), 'epoch')
local last = 0
if text then
  last = tonumber(text)
  if not last then return {'DAMAGED', s} end
else
  local none = missing(s)
  if none[1] ~= 'NOT_FOUND' then return none end
  redis.call('HSET', head(s), 'records', 0, 'log', 0, 'state', 0)
  redis.call('ZADD', p .. 'index', 0, s)
end
local now = redis.call('TIME')
local epoch = string.format('%.0f', math.max(last + 1, now[1] * 1000000 + now[2]))
redis.call('HSET', head(s), 'epoch', epoch)
return {'OK', epoch}
)lua";

// ARGV: quota, then of each record: session, epoch, sequence, sealed bytes. A record that is there
// already is written again as far as its head goes: what waits for this write waits for that one.
inline constexpr char kAppend[] = R"lua(
local begin, at, epochs, added, more = {}, {}, {}, {}, 0
for i = 2, #ARGV, 4 do
  local s, epoch, sequence, value = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  if not at[s] then
    epochs[s] = redis.call('HGET', head(s), 'epoch')
    if not epochs[s] then return missing(s) end
    begin[s], at[s] = log_ends(s)
    if not begin[s] then return {'DAMAGED', s} end
    added[s] = {}
  end
  if epoch ~= epochs[s] then return {'ABORTED', s, epoch, epochs[s]} end
  local next = at[s] + #added[s]
  if sequence > next then return {'GAP', s, ARGV[i + 2], tostring(next)} end
  if sequence < begin[s] then return {'TRIMMED', s, ARGV[i + 2]} end
  if sequence == next then
    table.insert(added[s], value)
    more = more + #value
  else
    local there = added[s][sequence - at[s] + 1]
    if sequence < at[s] then there = redis.call('LINDEX', log(s), sequence - begin[s]) end
    if there ~= value then return {'OTHER', s, ARGV[i + 2]} end
  end
end
local none = full(tonumber(ARGV[1]), more)
if none then return none end
for s, values in pairs(added) do
  local bytes = 0
  for _, value in ipairs(values) do
    redis.call('RPUSH', log(s), value)
    bytes = bytes + #value
  end
  redis.call('HSET', head(s), 'records', at[s] + #values)
  redis.call('HINCRBY', head(s), 'log', bytes)
end
redis.call('HINCRBY', p .. 'usage', 'log', more)
return {'OK'}
)lua";

// ARGV: session, first record, how many at most ("all": no limit). Answers with the number of the
// first one that there is, too.
inline constexpr char kReadLog[] = R"lua(
local s = ARGV[1]
if redis.call('EXISTS', head(s)) == 0 then return missing(s) end
local begin = log_ends(s)
if not begin then return {'DAMAGED', s} end
local skip, last = math.max(0, tonumber(ARGV[2]) - begin), -1
if ARGV[3] ~= 'all' then last = skip + tonumber(ARGV[3]) - 1 end
return {'OK', string.format('%.0f', begin + skip), redis.call('LRANGE', log(s), skip, last)}
)lua";

// ARGV: session, epoch, number of the record that the log begins with from now on, its sealed
// bytes.
inline constexpr char kTrimLog[] = R"lua(
local s, at = ARGV[1], tonumber(ARGV[3])
local epoch = redis.call('HGET', head(s), 'epoch')
if not epoch then return missing(s) end
if epoch ~= ARGV[2] then return {'ABORTED', s, ARGV[2], epoch} end
local first, last = log_ends(s)
if not first then return {'DAMAGED', s} end
if at < first or at >= last then
  return {'NO_RECORD', s, ARGV[3], string.format('%.0f', first), string.format('%.0f', last)}
end
local more = #ARGV[4]
for _, value in ipairs(redis.call('LRANGE', log(s), 0, at - first)) do more = more - #value end
redis.call('LTRIM', log(s), at - first, -1)
redis.call('LSET', log(s), 0, ARGV[4])
redis.call('HSET', head(s), 'first', ARGV[3])
redis.call('HINCRBY', head(s), 'log', string.format('%.0f', more))
redis.call('HINCRBY', p .. 'usage', 'log', string.format('%.0f', more))
return {'OK'}
)lua";

// ARGV: session, epoch, quota, position, description, state.
inline constexpr char kPutState[] = R"lua(
local s = ARGV[1]
local epoch = redis.call('HGET', head(s), 'epoch')
if not epoch then return missing(s) end
if epoch ~= ARGV[2] then return {'ABORTED', s, ARGV[2], epoch} end
local more = #ARGV[6] - redis.call('HSTRLEN', states(s), ARGV[4])
local none = full(tonumber(ARGV[3]), more)
if none then return none end
redis.call('HSET', infos(s), ARGV[4], ARGV[5])
redis.call('HSET', states(s), ARGV[4], ARGV[6])
redis.call('HINCRBY', head(s), 'state', more)
redis.call('HINCRBY', p .. 'usage', 'state', more)
return {'OK'}
)lua";

// ARGV: session, the largest position wanted.
inline constexpr char kGetState[] = R"lua(
local s = ARGV[1]
if redis.call('EXISTS', head(s)) == 0 then return missing(s) end
if redis.call('HLEN', infos(s)) ~= redis.call('HLEN', states(s)) then return {'DAMAGED', s} end
local best, name = -1, nil
for _, text in ipairs(redis.call('HKEYS', infos(s))) do
  local position = tonumber(text)
  if not position then return {'DAMAGED', s} end
  if position <= tonumber(ARGV[2]) and position > best then best, name = position, text end
end
if not name then return {'NO_STATE', s} end
local state = redis.call('HGET', states(s), name)
if not state then return {'DAMAGED', s} end
return {'OK', name, redis.call('HGET', infos(s), name), state}
)lua";

// ARGV: session.
inline constexpr char kListStates[] = R"lua(
local s = ARGV[1]
if redis.call('EXISTS', head(s)) == 0 then return missing(s) end
return {'OK', redis.call('HGETALL', infos(s))}
)lua";

// ARGV: session, epoch, position.
inline constexpr char kDropState[] = R"lua(
local s = ARGV[1]
local epoch = redis.call('HGET', head(s), 'epoch')
if not epoch then return missing(s) end
if epoch ~= ARGV[2] then return {'ABORTED', s, ARGV[2], epoch} end
local bytes = redis.call('HSTRLEN', states(s), ARGV[3])
redis.call('HDEL', infos(s), ARGV[3])
redis.call('HDEL', states(s), ARGV[3])
redis.call('HINCRBY', head(s), 'state', 0 - bytes)
redis.call('HINCRBY', p .. 'usage', 'state', 0 - bytes)
return {'OK'}
)lua";

// ARGV: session, epoch, seconds since 1970 or 0.
inline constexpr char kSetExpiry[] = R"lua(
local s = ARGV[1]
local epoch = redis.call('HGET', head(s), 'epoch')
if not epoch then return missing(s) end
if epoch ~= ARGV[2] then return {'ABORTED', s, ARGV[2], epoch} end
if ARGV[3] == '0' then
  redis.call('ZREM', p .. 'expiry', s)
else
  redis.call('ZADD', p .. 'expiry', ARGV[3], s)
end
return {'OK'}
)lua";

// ARGV: seconds since 1970, limit.
inline constexpr char kListExpired[] = R"lua(
return {'OK', redis.call('ZRANGEBYSCORE', p .. 'expiry', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])}
)lua";

// ARGV: session, epoch. What a lost head left behind goes too.
inline constexpr char kDelete[] = R"lua(
local s = ARGV[1]
local h = redis.call('HMGET', head(s), 'epoch', 'log', 'state')
if h[1] and h[1] ~= ARGV[2] then return {'ABORTED', s, ARGV[2], h[1]} end
redis.call('HINCRBY', p .. 'usage', 'log', 0 - (tonumber(h[2]) or 0))
redis.call('HINCRBY', p .. 'usage', 'state', 0 - (tonumber(h[3]) or 0))
redis.call('UNLINK', head(s), log(s), infos(s), states(s))
redis.call('ZREM', p .. 'index', s)
redis.call('ZREM', p .. 'expiry', s)
return {'OK'}
)lua";

// ARGV: least and largest name as ZRANGEBYLEX has them, limit.
inline constexpr char kList[] = R"lua(
local ids = redis.call('ZRANGEBYLEX', p .. 'index', ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
for _, s in ipairs(ids) do
  if redis.call('EXISTS', head(s)) == 0 then return {'DAMAGED', s} end
end
return {'OK', ids}
)lua";

}  // namespace attnd::redis_scripts

#endif  // ATTND_SERVICE_SESSION_REDIS_SCRIPTS_H_
