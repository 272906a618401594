-- For wrk: POSTs one body again and again, and tells the figures on one line.
-- Arguments: file of the paths (one a line, taken in turn), file of the body, then the headers as "Name: value".
local requests = {}
local number = 0

function init(args)
    local file = assert(io.open(args[2], "rb"))
    local body = file:read("*a")
    file:close()
    local headers = {}
    for at = 3, #args do
        local name, value = args[at]:match("^([^:]+): (.*)$")
        headers[name] = value
    end
    for path in io.lines(args[1]) do
        requests[#requests + 1] = wrk.format("POST", path, headers, body)
    end
end

function request()
    number = number % #requests + 1
    return requests[number]
end

-- us: microseconds; failed: connections that could not be made, broke, or did not answer in time
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "FIGURES answered=%d us=%d refused=%d failed=%d p50=%d p99=%d p999=%d\n",
        summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
