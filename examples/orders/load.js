// k6 run --summary-export reports/k6.json load.js
import http from 'k6/http';

const ids = ['1', '1', '1', '2'];

export const options = {
  vus: 4,
  iterations: 400,
  thresholds: {
    http_req_failed: ['rate<0.01'],
    http_req_duration: ['p(95)<500'],
  },
};

export default function () {
  http.get(`${__ENV.TARGET || 'http://127.0.0.1:9102'}/orders/${ids[__ITER % ids.length]}`, {
    headers: { Authorization: 'Bearer token-of-acme' },
  });
}
