-- Keys, in this order, in every script:
--   state      hash: id (the incarnation), origin (the store that it was made in), count (what was ever put in)
--   tasks      stream: t (task), n (deliveries before the message was given back), o (the id that it had at first)
--   published  sorted set: dedupe ids by the millisecond until which they are known
--   delayed    sorted set: "<o> <n> <task>" by the millisecond at which it is due
--   dead       sorted set: tasks by the millisecond at which they were given up
--   deaths     hash: task -> deliveries
--   returned   sorted set: what was given back, by the millisecond at which it was first published: an id in the stream, or
--              a member of `delayed`. What somebody removed from there by hand may still be named here.
-- The first argument is the incarnation that the caller knows, or nothing. A script that finds another, or no queue,
-- changes nothing and returns {0}.

-- name: prelude
if redis.replicate_commands then redis.replicate_commands() end
local STATE, TASKS, PUBLISHED, DELAYED, DEAD, DEATHS, RETURNED = unpack(KEYS)
local GROUP = 'workers'
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function text(number)
    return string.format('%.0f', number)
end
local function lost()
    local id = redis.call('HGET', STATE, 'id')
    return not id or (ARGV[1] ~= '' and ARGV[1] ~= id) or redis.call('EXISTS', TASKS) == 0
end
local function field(fields, name)
    for i = 1, #fields, 2 do
        if fields[i] == name then return fields[i + 1] end
    end
end
-- How often a message was handed out since it was put in, when it is held by that consumer, else nothing.
local function pending(id)
    return redis.call('XPENDING', TASKS, GROUP, id, id, 1)[1]
end
local function held(id, consumer, times)
    local entry = pending(id)
    return entry and entry[2] == consumer and (not times or entry[4] == tonumber(times))
end
local function remove(id)
    redis.call('XACK', TASKS, GROUP, id)
    redis.call('XDEL', TASKS, id)
    redis.call('ZREM', RETURNED, id)
end
local function milliseconds(id)
    return tonumber(string.match(id, '^%d+'))
end
local function put_back(origin, n, task)
    local id = redis.call('XADD', TASKS, '*', 't', task, 'n', n, 'o', origin)
    redis.call('ZADD', RETURNED, text(milliseconds(origin)), id)
end
local function bury(id, task, deliveries)
    redis.call('ZADD', DEAD, text(now()), task)
    redis.call('HSET', DEATHS, task, text(deliveries))
    remove(id)
end

-- name: ensure
local origin, fresh, idle = ARGV[2], ARGV[3], tonumber(ARGV[4])
local id = redis.call('HGET', STATE, 'id')
local there = redis.call('EXISTS', TASKS) == 1
if not there then
    -- What was known as published went with the stream, and is to be published again.
    redis.call('DEL', PUBLISHED)
end
if not id or not there or redis.call('HGET', STATE, 'origin') ~= origin then
    id = fresh
    redis.call('HSET', STATE, 'id', id, 'origin', origin)
end
local made = redis.pcall('XGROUP', 'CREATE', TASKS, GROUP, '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', TASKS, GROUP)) do
    if field(consumer, 'pending') == 0 and field(consumer, 'idle') > idle then
        redis.call('XGROUP', 'DELCONSUMER', TASKS, GROUP, field(consumer, 'name'))
    end
end
return { 1, id }

-- name: look
if lost() then return { 0 } end
return {
    1,
    redis.call('HGET', STATE, 'id'),
    redis.call('HGET', STATE, 'origin'),
    tonumber(redis.call('HGET', STATE, 'count') or '0'),
    redis.call('XLEN', TASKS) + redis.call('ZCARD', DELAYED),
}

-- When the oldest message was first published, or -1, and the newest. What was given back stands behind its time in the
-- stream. Of what is named there and gone a part is forgotten in each call; until all is, the answer is too old.
-- name: age
if lost() then return { 0 } end
local first = redis.call('XRANGE', TASKS, '-', '+', 'COUNT', 1)[1]
local oldest = first and milliseconds(first[1])
local returned
for _ = 1, 1000 do
    local place, since = unpack(redis.call('ZRANGE', RETURNED, 0, 0, 'WITHSCORES'))
    returned = tonumber(since)
    if not place then break end
    if string.find(place, ' ', 1, true) then
        if redis.call('ZSCORE', DELAYED, place) then break end
    elseif #redis.call('XRANGE', TASKS, place, place) > 0 then
        break
    end
    redis.pcall('ZREM', RETURNED, place)
end
if returned and (not oldest or returned < oldest) then oldest = returned end
return { 1, now(), oldest or -1, milliseconds(field(redis.call('XINFO', 'STREAM', TASKS), 'last-generated-id')) }

-- name: publish
if lost() then return { 0 } end
local at = now()
local known_until = text(at + tonumber(ARGV[2]))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', PUBLISHED, '-inf', text(at), 'LIMIT', 0, #ARGV)) do
    redis.call('ZREM', PUBLISHED, id)
end
local new = 0
for i = 3, #ARGV, 2 do
    local known = redis.call('ZSCORE', PUBLISHED, ARGV[i])
    if not known or tonumber(known) <= at then
        redis.call('ZADD', PUBLISHED, known_until, ARGV[i])
        redis.call('XADD', TASKS, '*', 't', ARGV[i + 1])
        new = new + 1
    end
end
if new > 0 then redis.call('HINCRBY', STATE, 'count', new) end
return { 1, new }

-- Bring back what is due, take over what dead workers held, and then what is new.
-- name: take
if lost() then return { 0 } end
local consumer, limit, ack_wait, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_age, cursor, at = tonumber(ARGV[6]), ARGV[7], now()
redis.call('XTRIM', TASKS, 'MINID', text(at - max_age))
for _, member in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', text(at), 'LIMIT', 0, 100)) do
    local origin, n, task = string.match(member, '^(%S+) (%d+) (.*)$')
    redis.call('ZREM', DELAYED, member)
    redis.call('ZREM', RETURNED, member)
    put_back(origin, n, task)
end
local taken = {}
local function hand_out(id, fields, times)
    local task, deliveries = field(fields, 't'), tonumber(field(fields, 'n') or '0') + times
    if deliveries > most then
        bury(id, task, deliveries - 1)
    else
        table.insert(taken, { id, task, deliveries, times })
    end
end
local claimed = redis.call('XAUTOCLAIM', TASKS, GROUP, consumer, ack_wait, cursor, 'COUNT', limit)
for _, entry in ipairs(claimed[2]) do
    -- Before Redis 7 an entry that was trimmed is false, and stays pending; later ones clear it themselves.
    if entry and entry[2] then hand_out(entry[1], entry[2], pending(entry[1])[4]) end
end
if #taken < limit then
    local got = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', limit - #taken, 'STREAMS', TASKS, '>')
    for _, entry in ipairs(got and got[1][2] or {}) do hand_out(entry[1], entry[2], 1) end
end
local due = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
return { 1, claimed[1], due[2] and math.max(tonumber(due[2]) - now(), 0) or -1, taken }

-- name: bury
if lost() then return { 0 } end
if held(ARGV[3], ARGV[2]) then bury(ARGV[3], ARGV[4], tonumber(ARGV[5])) end
return { 1 }

-- name: ack
remove(ARGV[2])
return { 1 }

-- name: nak
if lost() then return { 0 } end
local consumer, id, times, task, deliveries, delay = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
if held(id, consumer, times) then
    local entry = redis.call('XRANGE', TASKS, id, id)[1]
    local origin = entry and field(entry[2], 'o') or id
    remove(id)
    if delay > 0 then
        local member = origin .. ' ' .. deliveries .. ' ' .. task
        redis.call('ZADD', DELAYED, text(now() + delay), member)
        redis.call('ZADD', RETURNED, text(milliseconds(origin)), member)
    else
        put_back(origin, deliveries, task)
    end
end
return { 1 }

-- name: in_progress
if lost() then return { 0 } end
if held(ARGV[3], ARGV[2], ARGV[4]) then
    redis.call('XCLAIM', TASKS, GROUP, ARGV[2], 0, ARGV[3], 'JUSTID')
end
return { 1 }

-- name: dead_letters
if lost() then return { 0 } end
local found = {}
local letters = redis.call('ZRANGE', DEAD, 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
for i = 1, #letters, 2 do
    table.insert(found, { letters[i], tonumber(redis.call('HGET', DEATHS, letters[i]) or '0'), letters[i + 1] })
end
return { 1, found }

-- name: discard_dead
redis.call('ZREM', DEAD, ARGV[2])
redis.call('HDEL', DEATHS, ARGV[2])
return { 1 }

-- A consumer that still holds something stays, or nobody could take it over.
-- name: leave
if lost() then return { 0 } end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', TASKS, GROUP)) do
    if field(consumer, 'name') == ARGV[2] and field(consumer, 'pending') == 0 then
        redis.call('XGROUP', 'DELCONSUMER', TASKS, GROUP, ARGV[2])
    end
end
return { 1 }
